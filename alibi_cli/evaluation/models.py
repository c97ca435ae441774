"""Models to evaluate: where they are, what they are, how far their positions reach."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from alibi_cli.checkpoint.integrity import checked_sha256
from alibi_cli.checkpoint.source import check_plausible, locate, read_json
from alibi_cli.errors import EXIT_USAGE, AlibiError, first_line
from alibi_cli.evaluation.arms import Limits, limits_of
from alibi_cli.families import CONVERTED, trained_length
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from alibi_cli.runtime.alibi_policies import POSITION_TABLES

WEIGHTS = ("config.json", "*.safetensors", "pytorch_model*.bin")
SPLIT = "split"  # the name of all devices together, over which accelerate spreads one model
GGUF = ".gguf"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "merges.txt", "*.model")


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before its weights are loaded.

    digest: sha256 over config, tokenizer and weights; tokenizer_digest: over the tokenizer alone. attention: transformers' name of the
    attention that computes it. stored_dtype: of its weights, by its config. trained_length: tokens that its positions were trained for,
    None for a converted model, which has no such limit. hard_limit: the same length where nothing beyond it can be computed (a table of
    positions). masked: it fills in masked tokens instead of predicting the next one. limits: which arms it can have. engine: what computes
    a GGUF file; None for transformers.
    """

    name: str
    folder: Path
    commit: str | None
    model_type: str
    converted: bool
    masked: bool
    trained_length: int | None
    hard_limit: int | None
    digest: str
    tokenizer_digest: str
    attention: str
    stored_dtype: str
    limits: Limits = field(default_factory=Limits)
    engine: str | None = None


def describe(name: str, revision: str | None = None, trust_remote_code: bool = False) -> ModelInfo:
    """Reads a model's config and hashes its files.

    Raises:
        AlibiError: no such model, or one that is no language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    if name.endswith(GGUF):
        from alibi_cli.exporting.measured import describe_file

        return describe_file(Path(name).expanduser())
    folder, commit = locate(name, revision)
    raw = read_json(folder / "config.json")
    check_plausible(raw, name)
    if not trust_remote_code and any("attn_implementation" in key and "/" in str(raw[key]) for key in raw):
        raise AlibiError(
            f"The config.json of {name} asks for attention from the Hub, which is code; it was not loaded.",
            hint="--trust-remote-code lets it run.",
        )
    model_type = str(raw.get("model_type"))
    base = model_type.removeprefix(CONVERTED)
    converted = model_type != base
    listed = raw.get("architectures")
    names = [str(architecture) for architecture in listed] if isinstance(listed, list) else []
    causal = any("CausalLM" in n or "LMHead" in n for n in names) or raw.get("is_decoder") is True
    masked = any("MaskedLM" in n or "PreTraining" in n for n in names) or (
        not causal and base in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if raw.get("is_encoder_decoder") or base in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise AlibiError(
            f"{name} is an encoder-decoder, which cannot be scored by windows of one text.", exit_code=EXIT_USAGE
        )
    known = MODEL_FOR_MASKED_LM_MAPPING_NAMES if masked else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    of_plugin = base in CONFIG_MAPPING and CONFIG_MAPPING[base] in AutoModelForCausalLM._model_mapping
    if base not in known and not of_plugin and not (trust_remote_code and "auto_map" in raw):
        hint = "It brings its own code; --trust-remote-code lets that run." if "auto_map" in raw else None
        raise AlibiError(
            f"{name} has the model type {model_type!r}, which is no language model that transformers knows.",
            hint,
            EXIT_USAGE,
        )
    trained = hard = None
    attention, limits = ATTENTION_NAME, Limits()
    if not converted:
        auto: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            trained = trained_length(config)
            with torch.device("meta"):
                stock = auto.from_config(config, trust_remote_code=trust_remote_code)
        except Exception as error:  # transformers validates configs with errors of many types
            message = f"The config.json of {name} does not describe a model that can be built: {first_line(error)}."
            raise AlibiError(message) from error
        hard = trained if positions_end(stock) else None
        attention = str(stock.config._attn_implementation)
        limits = limits_of(stock, masked)
    stored = str(raw.get("dtype") or raw.get("torch_dtype") or "float32")
    digests = digest_of(folder, (*TOKENIZER, *WEIGHTS)), digest_of(folder, TOKENIZER)
    lengths = trained, hard
    return ModelInfo(name, folder, commit, model_type, converted, masked, *lengths, *digests, attention, stored, limits)


def original_length(info: ModelInfo) -> int | None:
    """Tokens for which the original was trained; a converted checkpoint keeps them in alibi.json. None if neither says."""
    if info.converted and (info.folder / "alibi.json").is_file():
        return read_json(info.folder / "alibi.json").get("trained_length")
    return info.trained_length


def positions_end(model: torch.nn.Module) -> bool:
    """True if a stock model keeps its positions in a table, beyond whose last row nothing can be computed."""
    names = (*POSITION_TABLES, "pos_encoding")
    return any(
        isinstance(getattr(module, name, None), torch.nn.Embedding) or name in module._buffers
        for module in model.modules()
        for name in names
    )


def digest_of(folder: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over names and contents of the files that a folder has of these."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\0{checked_sha256(path)}\0".encode())
    return digest.hexdigest()


def load_tokenizer(info: ModelInfo, trust_remote_code: bool = False) -> Any:
    from transformers import AutoTokenizer

    if info.engine is not None:
        from alibi_cli.exporting.measured import EngineTokenizer

        return EngineTokenizer(info)
    try:
        return AutoTokenizer.from_pretrained(
            info.folder, trust_remote_code=trust_remote_code, config=_plain_config(info)
        )
    except (ValueError, OSError, KeyError) as error:
        raise AlibiError(f"The tokenizer of {info.name} cannot be loaded: {first_line(error)}.") from None


def _plain_config(info: ModelInfo) -> Any:
    """A config whose model type AutoTokenizer knows, so that it need not ask for the checkpoint's own code."""
    if not info.converted:
        return None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[info.model_type.removeprefix(CONVERTED)]()


def load_model(info: ModelInfo, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False) -> Any:
    """The model, in evaluation mode. A converted checkpoint runs on this package's own copy of the runtime: its code is not executed.

    dtype "auto" is float32 on a CPU and the checkpoint's own type elsewhere. device "split" spreads the weights over all GPUs, the main
    memory and the disk, by accelerate's device_map="auto"; so does "auto" if they do not fit on one GPU.

    Raises:
        AlibiError: the weights cannot be loaded or do not fit the config.
    """
    import transformers

    if info.engine is not None:
        raise AlibiError(
            f"{info.name} is a GGUF file, which llama.cpp runs; there is its perplexity, and nothing else.",
            "Name the checkpoint that it was made of.",
            EXIT_USAGE,
        )
    target = pick_device("auto" if device == SPLIT else device)
    kind: Any = (
        "auto" if dtype == "auto" and target != "cpu" else getattr(torch, "float32" if dtype == "auto" else dtype)
    )
    auto = transformers.AutoModelForMaskedLM if info.masked else transformers.AutoModelForCausalLM
    options: dict[str, Any] = {"dtype": kind, "output_loading_info": True}
    split = device == SPLIT or (device == "auto" and target == "cuda" and _too_large_for_one(info, kind))
    if split:
        options["device_map"] = "auto"
    try:
        if info.converted:
            cls, config = _converted(info)
            model, loading = cls.from_pretrained(info.folder, config=config, **options)
        else:
            model, loading = auto.from_pretrained(info.folder, trust_remote_code=trust_remote_code, **options)
        if not split:
            model = model.to(target)
    except UnpicklingError:
        raise AlibiError(
            f"The weights of {info.name} hold Python objects other than tensors; they were not read, because that could run code."
        ) from None
    except (
        ValueError,
        OSError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        SafetensorError,
    ) as error:
        raise AlibiError(f"{info.name} cannot be loaded: {first_line(error)}.") from None
    if loading["missing_keys"]:
        raise AlibiError(f"{info.name} lacks weights: {', '.join(sorted(loading['missing_keys'])[:3])} …")
    return model.eval()


def _too_large_for_one(info: ModelInfo, dtype: Any) -> bool:
    """True if the weights, as they will be held, need more than the free memory of the first GPU."""
    files = [*info.folder.glob("*.safetensors")] or [*info.folder.glob("pytorch_model*.bin")]
    size = sum(path.stat().st_size for path in files)
    if dtype != "auto":
        size = size * dtype.itemsize // getattr(torch, info.stored_dtype).itemsize
    return size > torch.cuda.mem_get_info()[0]


def _converted(info: ModelInfo) -> tuple[Any, Any]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    from alibi_cli.runtime.modeling_alibi import config_class_for, model_class_for

    base = CONFIG_MAPPING[info.model_type.removeprefix(CONVERTED)]
    native = (MODEL_FOR_MASKED_LM_MAPPING if info.masked else MODEL_FOR_CAUSAL_LM_MAPPING)[base]
    return model_class_for(native), config_class_for(base).from_pretrained(info.folder)


def resolved_dtype(info: ModelInfo, device: str, dtype: str) -> str:
    """The type in which `load_model` computes."""
    if info.engine is not None:
        return f"{info.stored_dtype}, cache {'f16' if dtype == 'float16' else 'f32'}"
    return dtype if dtype != "auto" else "float32" if device_type(device) == "cpu" else info.stored_dtype


def device_type(device: str) -> str:
    """The kind of device that computes where a model is loaded to `device`: "cpu", "cuda", …

    Raises:
        AlibiError: there is no such device.
    """
    return pick_device("auto" if device == SPLIT else device).split(":")[0]


def pick_device(device: str) -> str:
    """ "auto" is the GPU if there is one.

    Raises:
        AlibiError: there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise AlibiError(
            f"Device {device!r} cannot be used: {str(error).splitlines()[0]}", exit_code=EXIT_USAGE
        ) from None
    return device
