"""What is known of a language model before its weights are loaded: from a folder, from the Hub, or in memory already."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.files.digests import TOKENIZER, digest_of, digest_of_model
from alibi_cli.files.strict_json import read_json
from alibi_cli.models.not_as_trained import check_no_adapter
from alibi_cli.models.plausible import check_plausible
from alibi_cli.models.source import locate
from alibi_cli.names import CONVERTED
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from alibi_cli.runtime.alibi_positions import POSITION_TABLES
from alibi_cli.surgery.refusals import trained_length


@dataclass(frozen=True)
class LanguageModel:
    """raw_config: its config.json. masked: it fills in masked tokens instead of predicting the next one. loaded, tokenizer: of a model in
    memory, which has a folder if it was loaded from one. config: raw_config, where it has been parsed already."""

    name: str
    folder: Path | None
    commit: str | None
    raw_config: dict[str, Any] = field(repr=False)
    masked: bool
    loaded: Any = field(default=None, repr=False, kw_only=True)
    tokenizer: Any = field(default=None, repr=False, kw_only=True)
    config: Any = field(default=None, repr=False, kw_only=True)

    @property
    def model_type(self) -> str:
        return str(self.raw_config.get("model_type"))

    @property
    def base_type(self) -> str:
        """The model type of what it was before a conversion."""
        return self.model_type.removeprefix(CONVERTED)

    @property
    def converted(self) -> bool:
        return self.model_type != self.base_type

    @property
    def stored_dtype(self) -> str:
        """Of its weights, by its config."""
        return str(self.raw_config.get("dtype") or self.raw_config.get("torch_dtype") or "float32").removeprefix(
            "torch."
        )

    @cached_property
    def digest(self) -> str:
        """sha256 over config, tokenizer and weights; of a model in memory over its config and tensors."""
        if self.loaded is None:
            return digest_of_model(self.files)
        found = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True, default=str).encode())
        for name, tensor in self.loaded.state_dict().items():
            found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            found.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 over the tokenizer alone."""
        if self.tokenizer is None:
            return digest_of(self.files, TOKENIZER)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def files(self) -> Path:
        """
        Raises:
            UsageError: a model in memory that did not come from a folder.
        """
        if self.folder is None:
            raise UsageError(
                f"{self.name} is in memory and has no files.", "Give its tokenizer too, as (model, tokenizer)."
            )
        return self.folder


@dataclass(frozen=True)
class ModelInfo(LanguageModel):
    """trained_length: tokens that its positions were trained for, None for a converted model, which has no such limit. hard_limit: the same
    length where nothing beyond it can be computed (position embeddings). attention: transformers' name of the attention that computes it.
    skeleton: the unconverted model, which may be without numbers. engine: what computes a GGUF file; None for transformers."""

    trained_length: int | None = None
    hard_limit: int | None = None
    attention: str = ATTENTION_NAME
    skeleton: Any = field(default=None, repr=False)
    engine: str | None = None

    @property
    def original_length(self) -> int | None:
        """Tokens for which the original was trained; a converted checkpoint keeps them in alibi.json. None if neither says."""
        if self.converted and self.folder is not None and (self.folder / "alibi.json").is_file():
            return read_json(self.folder / "alibi.json").get("trained_length")
        return self.trained_length


def language_model(
    name: str, folder: Path, commit: str | None, raw: dict[str, Any], trust_remote_code: bool = False
) -> LanguageModel:
    """
    Raises:
        AlibiError: it is no language model that windows of one text can be fed to, or it asks for code that was not allowed to run.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    check_plausible(raw, name)
    if not trust_remote_code and any("attn_implementation" in key and "/" in str(raw[key]) for key in raw):
        raise AlibiError(
            f"The config.json of {name} asks for attention from the Hub, which is code; it was not loaded.",
            hint="`trust_remote_code` lets it run.",
        )
    found = LanguageModel(name, folder, commit, raw, False)
    base, listed = found.base_type, raw.get("architectures")
    names = [str(architecture) for architecture in listed] if isinstance(listed, list) else []
    causal = any("CausalLM" in n or "LMHead" in n for n in names) or raw.get("is_decoder") is True
    masked = any("MaskedLM" in n or "PreTraining" in n for n in names) or (
        not causal and base in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if raw.get("is_encoder_decoder") or base in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(f"{name} is an encoder-decoder, which cannot be scored by windows of one text.")
    known = MODEL_FOR_MASKED_LM_MAPPING_NAMES if masked else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    of_plugin = base in CONFIG_MAPPING and CONFIG_MAPPING[base] in AutoModelForCausalLM._model_mapping
    if base not in known and not of_plugin and not (trust_remote_code and "auto_map" in raw):
        hint = "It brings its own code; `trust_remote_code` lets that run." if "auto_map" in raw else None
        raise UsageError(
            f"{name} has the model type {found.model_type!r}, which is no language model that transformers knows.", hint
        )
    return LanguageModel(name, folder, commit, raw, masked)


def describe(model: Any, revision: str | None = None, trust_remote_code: bool = False) -> ModelInfo:
    """Reads a model's config; no weight is read. model: a folder, a Hub name, a GGUF file, a model in memory, or a pair of one and its
    tokenizer.

    Raises:
        AlibiError: no such model, or one that is no language model.
    """
    if isinstance(model, tuple):
        return in_memory(*model)
    if isinstance(model, torch.nn.Module):
        return in_memory(model)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    name = str(model)
    if name.endswith(".gguf"):
        from alibi_cli.models.gguf_model import describe_file

        return describe_file(Path(name).expanduser())
    folder, commit = locate(name, revision)
    check_no_adapter(folder, name)  # transformers would load the base model, with or without it
    raw = read_json(folder / "config.json")
    found = language_model(name, folder, commit, raw, trust_remote_code)
    fields = (name, folder, commit, raw, found.masked)
    if found.converted:
        return ModelInfo(*fields)
    auto: Any = AutoModelForMaskedLM if found.masked else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        trained = trained_length(config)
        with torch.device("meta"):
            stock = auto.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers validates configs with errors of many types
        message = f"The config.json of {name} does not describe a model that can be built: {first_line(error)}."
        raise AlibiError(message) from error
    return ModelInfo(*fields, **_limits(stock, trained))


def in_memory(model: Any, tokenizer: Any = None) -> ModelInfo:
    """A model that is loaded already, and its tokenizer; without one, that of the folder or repository that it was loaded from.

    Raises:
        AlibiError: as `describe`.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "get_input_embeddings"):
        raise UsageError(f"A {type(model).__name__} is no model of transformers.")
    origin = str(getattr(config, "_name_or_path", "") or "")
    name, folder = origin or type(model).__name__, None
    if tokenizer is None and origin:  # of a repository, the commit that the model is of; no weight is needed
        folder, _ = locate(origin, getattr(config, "_commit_hash", None), read_weights=False)
    masked = "MaskedLM" in type(model).__name__ or "PreTraining" in type(model).__name__
    fields = (name, folder, None, config.to_dict(), masked)
    info = ModelInfo(*fields, loaded=model, tokenizer=tokenizer)
    if info.converted:
        return info
    return ModelInfo(*fields, loaded=model, tokenizer=tokenizer, **_limits(model, trained_length(config)))


def _limits(stock: Any, trained: int | None) -> dict[str, Any]:
    hard = trained if positions_end(stock) else None
    attention = str(stock.config._attn_implementation)
    return {"trained_length": trained, "hard_limit": hard, "attention": attention, "skeleton": stock}


def positions_end(model: torch.nn.Module) -> bool:
    """True if a stock model keeps embeddings of its positions, beyond whose last row nothing can be computed."""
    names = (*POSITION_TABLES, "pos_encoding")
    return any(
        isinstance(getattr(module, name, None), torch.nn.Embedding) or name in module._buffers
        for module in model.modules()
        for name in names
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A model in memory is in evaluation mode meanwhile, and then as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
