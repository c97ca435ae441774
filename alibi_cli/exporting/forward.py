"""What a GGUF file computes, by llama.cpp's definition of its architecture, in numpy: an oracle for small files where there is no engine.

Shapes: T tokens, d the model's width, H heads of width D, G key-value heads, V the size of the vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np

from alibi_cli.engines.gguf_package import gguf_package
from alibi_cli.slopes import get_slopes

Array = np.ndarray[Any, Any]
ROOT = {"refact": 0.5, "mpt": 0.5, "bloom": 0.5, "jais": 1.0}  # scores are divided by D to this power
BUILT_IN = 8.0  # max_alibi_bias of the architectures that read none


class File:
    """A GGUF file, read whole."""

    def __init__(self, path: Path):
        gguf = gguf_package()
        reader = gguf.GGUFReader(path)
        self.keys = {
            name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")
        }
        self.architecture = self.keys["general.architecture"]
        self.tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def key(self, name: str, default: Any = None) -> Any:
        return self.keys.get(f"{self.architecture}.{name}", default)


def log_probabilities(path: Path, ids: list[int]) -> Array:
    """(T, V) of the next token, in float32."""
    logits = _Pass(File(path)).logits(np.array(ids))
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


class _Pass:
    def __init__(self, file: File):
        self.tensors, self.architecture = file.tensors, file.architecture
        self.heads, self.groups = file.key("attention.head_count"), file.key("attention.head_count_kv")
        self.width = file.key("attention.key_length")
        self.eps = file.key("attention.layer_norm_rms_epsilon") or file.key("attention.layer_norm_epsilon")
        self.layers = file.key("block_count")
        max_bias = file.key("attention.max_alibi_bias", BUILT_IN if self.architecture in ("refact", "bloom") else 0.0)
        self.slopes = np.array(get_slopes(self.heads, max_bias) if max_bias else [0.0] * self.heads, dtype=np.float32)

    def logits(self, ids: Array) -> Array:
        x = self.tensors["token_embd.weight"][ids].astype(np.float32)  # (T, d)
        if self.architecture == "bloom":
            x = self._norm(x, "token_embd_norm")
        for layer in range(self.layers):
            block = f"blk.{layer}."
            x = x + self._attention(self._norm(x, f"{block}attn_norm"), block)
            x = x + self._feed_forward(self._norm(x, f"{block}ffn_norm"), block)
        head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        return self._norm(x, "output_norm") @ head.T

    def _linear(self, x: Array, name: str, biased: bool = True) -> Array:
        y: Array = x @ self.tensors[f"{name}.weight"].T
        bias = self.tensors.get(f"{name}.bias") if biased else None
        return y if bias is None else y + bias

    def _norm(self, x: Array, name: str) -> Array:
        if self.architecture == "refact":
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.tensors[f"{name}.weight"]
        centred = x - x.mean(-1, keepdims=True)
        y: Array = (
            centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + self.eps) * self.tensors[f"{name}.weight"]
        )
        return y + self.tensors.get(f"{name}.bias", np.float32(0))

    def _attention(self, x: Array, block: str) -> Array:
        lengths = [self.heads * self.width, self.groups * self.width, self.groups * self.width]
        if self.architecture == "refact":
            q, k, v = (self._linear(x, f"{block}attn_{name}") for name in "qkv")
        else:
            q, k, v = np.split(self._linear(x, f"{block}attn_qkv"), np.cumsum(lengths)[:2], axis=1)
        q, k, v = (part.reshape(len(x), -1, self.width).transpose(1, 0, 2) for part in (q, k, v))  # (H or G, T, D)
        k, v = (part.repeat(self.heads // self.groups, 0) for part in (k, v))
        back = np.arange(len(x))[:, None] - np.arange(len(x))  # i - j
        scores = q @ k.transpose(0, 2, 1) / np.float32(self.width ** ROOT[self.architecture])
        scores = np.where(back < 0, -np.inf, scores - self.slopes[:, None, None] * back)  # (H, T, T)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        # refact loads a bias of the output matrix and of the feed-forward, and adds neither.
        mixed = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        return self._linear(mixed.astype(np.float32), f"{block}attn_output", self.architecture != "refact")

    def _feed_forward(self, x: Array, block: str) -> Array:
        biased = self.architecture != "refact"
        up = self._linear(x, f"{block}ffn_up", biased)
        if self.architecture in ("refact", "jais"):
            gate = self._linear(x, f"{block}ffn_gate", biased)
            inner = gate / (1 + np.exp(-np.clip(gate, -80, None))) * up
        else:
            inner = 0.5 * up * (1 + np.tanh(np.float32(0.7978845608) * (up + np.float32(0.044715) * up**3)))
        return self._linear(inner.astype(np.float32), f"{block}ffn_down", biased)
