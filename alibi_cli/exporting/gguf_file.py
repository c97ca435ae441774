"""Writes a GGUF file, one tensor at a time. The package gguf, an extra, lays it out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from alibi_cli.engines.gguf_package import gguf_package
from alibi_cli.errors import UsageError
from alibi_cli.exporting.architectures import REFACT, Family
from alibi_cli.exporting.recipes import Recipe
from alibi_cli.exporting.tensors import Dimensions
from alibi_cli.exporting.tokenizer import Vocabulary
from alibi_cli.models.source import Source

BLOCK = 32  # numbers that share a scale in q8_0


class Header:
    """What stands before the tensors."""

    def __init__(
        self, source: Source, family: Family, config: Any, max_bias: float, context_length: int, vocabulary: Vocabulary
    ):
        self.source, self.family, self.config = source, family, config
        self.max_bias, self.context_length, self.vocabulary = max_bias, context_length, vocabulary

    def write(self, writer: Any, feed_forward: int, dtype: str) -> None:
        gguf, config, size = gguf_package(), self.config, Dimensions.of(self.config)
        writer.add_type("model")
        name = self.source.folder.resolve().name
        if not self._misleads(name):
            writer.add_name(name)
        writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_vocab_size(len(self.vocabulary.tokens))
        writer.add_context_length(self.context_length)
        writer.add_embedding_length(size.model)
        writer.add_block_count(size.layers)
        writer.add_feed_forward_length(feed_forward)
        writer.add_head_count(size.heads)
        writer.add_head_count_kv(size.groups)
        writer.add_key_length(size.width)
        writer.add_value_length(size.width)
        writer.add_rope_dimension_count(size.width)  # wanted by refact, and not used
        eps = self.family.eps if isinstance(self.family.eps, float) else float(getattr(config, self.family.eps))
        (writer.add_layer_norm_rms_eps if self.family.architecture is REFACT else writer.add_layer_norm_eps)(eps)
        if self.family.architecture.max_bias is None:
            writer.add_max_alibi_bias(self.max_bias)
        self._write_vocabulary(writer)

    def _misleads(self, name: str) -> bool:
        """True if llama.cpp would look, by this name, for tokens that are not there, and not load the file."""
        looked_for = {"<unk>", "<s>", "<|endoftext|>"}
        return any(part in name.lower() for part in ("phi3", "phi-3")) and not looked_for <= {*self.vocabulary.tokens}

    def _write_vocabulary(self, writer: Any) -> None:
        vocabulary = self.vocabulary
        writer.add_tokenizer_model(vocabulary.model)
        writer.add_tokenizer_pre(vocabulary.pre or "default")
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_types(vocabulary.kinds)
        if vocabulary.merges:
            writer.add_token_merges(vocabulary.merges)
        if vocabulary.scores:
            writer.add_token_scores(vocabulary.scores)
            writer.add_add_space_prefix(vocabulary.space_prefix)
        for kind, number in vocabulary.special.items():
            getattr(writer, f"add_{kind}_token_id")(number)
        writer.add_add_bos_token(vocabulary.adds[0])
        writer.add_add_eos_token(vocabulary.adds[1])
        if vocabulary.chat_template:
            writer.add_chat_template(vocabulary.chat_template)


def write_file(
    path: Path,
    source: Source,
    header: Header,
    recipes: Mapping[str, Recipe],
    dtype: str,
    on_bytes: Callable[[int, int], None],
) -> None:
    """Writes all tensors in order. on_bytes(done, of).

    Raises:
        AlibiError: a number that the type cannot hold.
        OSError: the file cannot be written.
    """
    gguf = gguf_package()
    shapes = {name: info.shape for name, (_, info) in source.tensors.items()}
    made = {name: recipe.shape(shapes) for name, recipe in recipes.items()}
    writer = gguf.GGUFWriter(path, header.family.architecture.name)
    header.write(writer, made["blk.0.ffn_up.weight"][0], dtype)
    total = 0
    for name, shape in made.items():
        kind = _kind(gguf, shape, dtype)
        n_bytes = _n_bytes(gguf, shape, kind)
        total += n_bytes
        writer.add_tensor_info(name, shape, None, n_bytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done = 0
        for name, recipe in recipes.items():
            array = recipe.make(*(_read(source, each) for each in recipe.sources)).contiguous().numpy()
            encoded = gguf.quants.quantize(array, _kind(gguf, array.shape, dtype))
            if dtype == "f16" and not abs(encoded).max() <= 65504:
                raise UsageError(f"{name} holds numbers beyond the range of f16.", "Take `dtype=bf16`.")
            writer.write_tensor_data(encoded)
            done += encoded.nbytes
            on_bytes(done, total)
    finally:
        writer.close()


def _read(source: Source, name: str) -> torch.Tensor:
    with safe_open(source.tensors[name][0], "pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor.to(torch.float32)


def _kind(gguf: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Vectors stay in float32, which llama.cpp wants; rows that are no whole number of blocks of q8_0 are f16, as llama-quantize has it."""
    name = "F32" if len(shape) < 2 else dtype.upper()
    return gguf.GGMLQuantizationType["F16" if name == "Q8_0" and shape[-1] % BLOCK else name]


def _n_bytes(gguf: Any, shape: tuple[int, ...], kind: Any) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    numbers = 1
    for n in shape:
        numbers *= n
    return numbers // block * size
