"""Calibration of a checkpoint on disk."""

import copy

import torch

from alibi_cli.calibration.learnable import learned_names
from alibi_cli.calibration.run import Update, learn
from alibi_cli.checkpoint.learned import Learned
from alibi_cli.checkpoint.source import Source
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.models import describe, load_model, load_tokenizer
from alibi_cli.evaluation.text import Text
from alibi_cli.families import config_of, model_class
from alibi_cli.slopes import get_slopes
from alibi_cli.surgery.apply import apply_alibi


def planned(source: Source, method: str) -> Learned:
    """The names of what `method` is going to write for this checkpoint; slopes and values are not known yet.

    Raises:
        AlibiError: a family that is not converted, or not calibrated.
    """
    config = config_of(source.config, source.name)
    if config.is_encoder_decoder:
        raise AlibiError(
            f"A {config.model_type} is an encoder-decoder; calibration reads one text.", exit_code=EXIT_USAGE
        )
    press = get_slopes(config.num_attention_heads)
    with torch.device("meta"):
        model = model_class(config)(copy.deepcopy(config))
        apply_alibi(model, 1, slopes=press, position_vector=True)
    added, changed = learned_names(model, method)
    meta = dict(model.named_parameters())
    return Learned(
        scheme=f"calibrated, {method}",
        slopes=press,
        added={name: meta[name] for name in added},
        changed={name: meta[name] for name in changed},
    )


def calibrate_source(
    source: Source, text: Text, method: str, n_tokens: int, update: Update = lambda *_: None
) -> Learned:
    """Loads the original once and calibrates it.

    Raises:
        AlibiError: no language model, no tokenizer, too little text, or a loss that is not finite.
    """
    info = describe(source.name if source.commit is None else str(source.folder))
    if info.trained_length is None:
        raise AlibiError(f"The config of {source.name} names no length to calibrate at.", exit_code=EXIT_USAGE)
    tokenizer = load_tokenizer(info)
    model = load_model(info)
    return learn(model, tokenizer, text, info.trained_length, method, n_tokens, masked=info.masked, update=update)
