"""Loads tokenizers and weights to the device that computes."""

import copy
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.files.strict_json import read_json
from alibi_cli.files.tensor_files import read_header
from alibi_cli.models.language_model import LanguageModel, ModelInfo
from alibi_cli.models.source import locate
from alibi_cli.names import CONVERTED

SPLIT = "split"  # the name of all devices together, over which accelerate spreads one model


def _engine(info: LanguageModel) -> str | None:
    return getattr(info, "engine", None)


def load_tokenizer(info: LanguageModel, trust_remote_code: bool = False) -> Any:
    """
    Raises:
        AlibiError: there is none, or it cannot be loaded.
    """
    if info.tokenizer is not None:
        return info.tokenizer
    if _engine(info) is not None:
        from alibi_cli.models.gguf_model import EngineTokenizer

        return EngineTokenizer(info)
    return _tokenizer_in(info.files, info.name, info.model_type, trust_remote_code, info.config)


def with_tokenizer(info: ModelInfo, tokenizer: str | None, trust_remote_code: bool = False) -> ModelInfo:
    """The same model with the tokenizer of another folder or Hub repository in place of its own; itself for None.

    Raises:
        AlibiError: there is none, or the model is a GGUF file, which holds its own.
    """
    if tokenizer is None:
        return info
    if info.engine is not None:
        raise UsageError(f"{info.name} is read by llama.cpp with the tokenizer in it; `tokenizer` cannot be used.")
    folder, _ = locate(tokenizer, read_weights=False)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    model_type = str(config.get("model_type", ""))
    return replace(info, tokenizer=_tokenizer_in(folder, tokenizer, model_type, trust_remote_code))


def _tokenizer_in(folder: Path, name: str, model_type: str, trust_remote_code: bool, config: Any = None) -> Any:
    from transformers import AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type.startswith(CONVERTED):  # AutoTokenizer need not ask for the checkpoint's own code
        config = CONFIG_MAPPING[model_type.removeprefix(CONVERTED)]()
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, config=config)
    except (ValueError, OSError, KeyError) as error:
        raise AlibiError(f"The tokenizer of {name} cannot be loaded: {first_line(error)}.") from None


def load_model(info: LanguageModel, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False) -> Any:
    """The model, in evaluation mode. A converted checkpoint runs on this package's own copy of the runtime: its code is not executed.

    dtype "auto" is float32 on a CPU and the checkpoint's own type elsewhere. device "split" spreads the weights over all GPUs, the main
    memory and the disk, by accelerate's device_map="auto"; so does "auto" if they do not fit on one GPU. A model in memory is given back as
    it is, in whatever mode, type and place it is.

    Raises:
        AlibiError: the weights cannot be loaded or do not fit the config.
    """
    if info.loaded is not None:
        return info.loaded
    if _engine(info) is not None:
        raise UsageError(
            f"{info.name} is a GGUF file, which llama.cpp runs; there is its perplexity, and nothing else.",
            "Name the checkpoint that it was made of.",
        )
    import transformers

    target = first_device(device)
    kind: Any = (
        "auto" if dtype == "auto" and target != "cpu" else getattr(torch, "float32" if dtype == "auto" else dtype)
    )
    auto = transformers.AutoModelForMaskedLM if info.masked else transformers.AutoModelForCausalLM
    options: dict[str, Any] = {"dtype": kind, "output_loading_info": True}
    split = device == SPLIT or (device == "auto" and target == "cuda" and _too_large_for_one(info, kind))
    if split:
        options["device_map"] = "auto"
    if info.config is not None:
        options["config"] = copy.deepcopy(info.config)  # what is loaded changes it
    try:
        if info.converted:
            cls, config = _converted(info)
            model, loading = cls.from_pretrained(info.files, config=config, **options)
        else:
            model, loading = cast(Any, auto).from_pretrained(info.files, trust_remote_code=trust_remote_code, **options)
        if not split:
            model = model.to(target)
    except UnpicklingError:
        raise AlibiError(
            f"The weights of {info.name} hold Python objects other than tensors; they were not read, because that could run code."
        ) from None
    except SafetensorError as error:
        for path in sorted(info.files.glob("*.safetensors")):
            read_header(path)  # says which file is damaged, and how
        raise AlibiError(f"{info.name} cannot be loaded: {first_line(error)}.") from None
    except (
        ValueError,
        OSError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
    ) as error:
        raise AlibiError(f"{info.name} cannot be loaded: {first_line(error)}.") from None
    if loading["missing_keys"]:
        raise AlibiError(f"{info.name} lacks weights: {', '.join(sorted(loading['missing_keys'])[:3])} …")
    return model.eval()


def _too_large_for_one(info: LanguageModel, dtype: Any) -> bool:
    """True if the weights, as they will be held, need more than the free memory of the first GPU."""
    files = [*info.files.glob("*.safetensors")] or [*info.files.glob("pytorch_model*.bin")]
    size = sum(path.stat().st_size for path in files)
    if dtype != "auto":
        size = size * dtype.itemsize // getattr(torch, info.stored_dtype).itemsize
    return size > torch.cuda.mem_get_info()[0]


def _converted(info: LanguageModel) -> tuple[Any, Any]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    from alibi_cli.runtime.modeling_alibi import config_class_for, model_class_for

    base = CONFIG_MAPPING[info.base_type]
    native = (MODEL_FOR_MASKED_LM_MAPPING if info.masked else MODEL_FOR_CAUSAL_LM_MAPPING)[base]
    return model_class_for(native), config_class_for(base).from_pretrained(info.files)


def resolved_dtype(info: LanguageModel, device: str, dtype: str) -> str:
    """The type in which `load_model` computes."""
    if _engine(info) is not None:
        return f"{info.stored_dtype}, cache {'f16' if dtype == 'float16' else 'f32'}"
    if info.loaded is not None:
        return str(info.loaded.dtype).removeprefix("torch.")
    return dtype if dtype != "auto" else "float32" if device_type(device) == "cpu" else info.stored_dtype


def device_type(device: str) -> str:
    """The kind of device that computes where a model is loaded to `device`: "cpu", "cuda", …

    Raises:
        AlibiError: there is no such device.
    """
    return first_device(device).split(":")[0]


def first_device(device: str) -> str:
    """Where a model that is loaded to `device` begins: "cpu", "cuda", "cuda:1", …

    Raises:
        AlibiError: there is no such device.
    """
    return pick_device("auto" if device == SPLIT else device)


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
        raise UsageError(f"Device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
