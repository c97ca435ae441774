"""The tensors of a GGUF file as recipes: llama.cpp's names, made of the checkpoint's tensors.

What a family computes and the architecture does not is folded into weights: multipliers, sqrt(D), ReLU. Heads that change places take
their rows of q, k and v and their columns of the output matrix with them, which changes nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from alibi_cli.errors import AlibiError
from alibi_cli.exporting.architectures import BLOOM, JAIS, MPT, REFACT, Family
from alibi_cli.exporting.head_order import by_layer, head_order, max_bias_of
from alibi_cli.exporting.obstacles import check_ignored, check_slopes, torn_groups
from alibi_cli.exporting.recipes import Recipe, added, filled, joined, of, reordered, rows

HEADS = ("lm_head", "embed_out", "output_projection")
# ReLU(x) is SiLU(cx) / c, and ReLU(x)^2 is SiLU(cx) x / c, for large c. Not larger than this, or weights of 16 bits would overflow.
SHARPNESS = {"relu": 2.0**14, "relu2": 2.0**8}


@dataclass(frozen=True)
class Dimensions:
    heads: int
    groups: int
    width: int  # of a head
    model: int
    layers: int

    @classmethod
    def of(cls, config: Any) -> "Dimensions":
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        if hasattr(config, "multi_query"):
            groups = 1 if config.multi_query else heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(heads, groups, width, config.hidden_size, config.num_hidden_layers)


class _Shapes(dict[str, tuple[int, ...]]):
    def __missing__(self, name: str) -> tuple[int, ...]:
        raise AlibiError(f"The checkpoint lacks the tensor {name}.")


class Builder:
    """Builds the recipes of one checkpoint. shapes: of its tensors."""

    def __init__(self, family: Family, config: Any, shapes: Mapping[str, tuple[int, ...]]):
        self.family, self.layout, self.config, self.shapes = family, family.layout, config, _Shapes(shapes)
        self.size = Dimensions.of(config)
        self.factors = family.factors(config)
        self.base = self.layout.base if any(name.startswith(self.layout.base) for name in shapes) else ""
        layers = by_layer(config.alibi_slopes, self.size.layers)
        self.max_bias = check_slopes(max_bias_of(layers), family)
        self.orders = [self._order(slopes) for slopes in layers]
        self.recipes: dict[str, Recipe] = {}

    @property
    def permuted(self) -> bool:
        return any(order != sorted(order) for order in self.orders)

    def build(self) -> dict[str, Recipe]:
        """{name in the file: recipe}"""
        self._embedding()
        self._norm("output_norm", self.base + self.layout.output_norm)
        for layer in range(self.size.layers):
            self._layer(layer, f"blk.{layer}.", self.base + self.layout.layer.format(layer))
        return self.recipes

    def _order(self, slopes: list[float]) -> list[int]:
        order = head_order(slopes, self.size.groups, self.max_bias)
        if order is None:
            raise torn_groups(self.size.groups)
        return order

    def _embedding(self) -> None:
        plain = of(f"{self.base}{self.layout.embedding}.weight")
        embedding = plain.times(self.factors.embedding)
        vector = next((name for name in self.shapes if name.endswith(".vector")), None)
        if vector is not None:
            embedding = added(embedding, of(vector))
        self.recipes["token_embd.weight"] = embedding
        if self.layout.embedding_norm is not None:
            self._norm("token_embd_norm", self.base + self.layout.embedding_norm)
        own = next((f"{name}.weight" for name in HEADS if f"{name}.weight" in self.shapes), None)
        head = (plain if own is None else of(own)).times(self.factors.output)
        if own is not None or embedding is not plain or head is not plain or self.family.architecture is JAIS:
            self.recipes["output.weight"] = head

    def _layer(self, layer: int, to: str, source: str) -> None:
        layout, order, width = self.layout, self.orders[layer], self.size.width
        check_ignored(self.family, source, self.shapes)
        self._norm(f"{to}attn_norm", source + layout.attention_norm)
        self._norm(f"{to}ffn_norm", source + layout.ffn_norm)
        self._qkv(layer, to, source)
        output = self._matrix(source + layout.attention_output).times(self.factors.branch)
        self._put(f"{to}attn_output", reordered(output, order, width, 1), source + layout.attention_output)
        self._ffn(to, source)

    def _qkv(self, layer: int, to: str, source: str) -> None:
        scale = self.factors.query(layer) * (getattr(self.config, "alibi_rotary_scaling", None) or 1.0) ** 2
        if self.family.architecture is JAIS:
            scale *= self.size.width**0.5
        order, size = self.orders[layer], self.size
        groups = [
            order[start] // (size.heads // size.groups) for start in range(0, size.heads, size.heads // size.groups)
        ]
        for kind in ("weight", "bias"):
            parts = self._parts(source, kind)
            if parts is None:
                if self.family.architecture in (JAIS, BLOOM):
                    self.recipes[f"{to}attn_qkv.{kind}"] = filled(0, (size.heads + 2 * size.groups) * size.width)
                continue
            q, k, v = parts
            q = reordered(q, order, size.width).times(scale)
            k, v = reordered(k, groups, size.width), reordered(v, groups, size.width)
            if self.family.architecture is REFACT:
                self.recipes |= {f"{to}attn_{name}.{kind}": part for name, part in zip("qkv", (q, k, v), strict=True)}
            else:
                self.recipes[f"{to}attn_qkv.{kind}"] = joined(q, k, v)

    def _parts(self, source: str, kind: str) -> tuple[Recipe, Recipe, Recipe] | None:
        """Queries, keys and values, head after head; None if there is no bias."""
        names, size = [f"{source}{name}.{kind}" for name in self.layout.qkv], self.size
        present = [name in self.shapes for name in names]
        if not any(present):
            return None
        lengths = [size.heads * size.width, size.groups * size.width, size.groups * size.width]
        if len(names) == 3:
            q, k, v = (
                self._oriented(name) if there else filled(0, length)
                for name, there, length in zip(names, present, lengths, strict=True)
            )
            return q, k, v
        fused = self._oriented(names[0])
        by_head = self.layout.by_head or getattr(self.config, "multi_query", True) is False
        if by_head:
            order = [block for part in range(3) for block in range(part, 3 * size.heads, 3)]
            fused = reordered(fused, order, size.width)
        ends = [lengths[0], lengths[0] + lengths[1], sum(lengths)]
        return rows(fused, 0, ends[0]), rows(fused, ends[0], ends[1]), rows(fused, ends[1], ends[2])

    def _ffn(self, to: str, source: str) -> None:
        layout = self.layout
        up, down = source + layout.up, source + layout.down
        if layout.gate is not None:
            self._put(f"{to}ffn_gate", self._matrix(source + layout.gate), source + layout.gate)
            self._put(f"{to}ffn_up", self._matrix(up), up)
        elif layout.gate_up:
            length = self.shapes[f"{up}.weight"][0]
            self.recipes[f"{to}ffn_gate.weight"] = rows(self._matrix(up), 0, length // 2)
            self.recipes[f"{to}ffn_up.weight"] = rows(self._matrix(up), length // 2, length)
        elif self.family.architecture is JAIS:
            self._sharp(to, up)
        else:
            self._put(f"{to}ffn_up", self._matrix(up), up)
        self._put(f"{to}ffn_down", self._matrix(down).times(self.factors.branch), down)

    def _sharp(self, to: str, up: str) -> None:
        """ReLU and its square, out of a gate with SiLU."""
        sharpness, (length, width) = SHARPNESS[self.family.activation], self.shapes[f"{up}.weight"]
        weight, bias = self._matrix(up), self._bias(up, length)
        self.recipes[f"{to}ffn_gate.weight"] = weight.times(sharpness)
        self.recipes[f"{to}ffn_gate.bias"] = bias.times(sharpness)
        if self.family.activation == "relu":
            self.recipes[f"{to}ffn_up.weight"] = filled(0, length, width)
            self.recipes[f"{to}ffn_up.bias"] = filled(1 / sharpness, length)
        else:
            self.recipes[f"{to}ffn_up.weight"] = weight.times(1 / sharpness)
            self.recipes[f"{to}ffn_up.bias"] = bias.times(1 / sharpness)

    def _put(self, to: str, weight: Recipe, source: str) -> None:
        """A matrix and its bias."""
        self.recipes[f"{to}.weight"] = weight
        if f"{source}.bias" in self.shapes or self.family.architecture in (JAIS, BLOOM):
            rows_ = weight.shape(self.shapes)[0]
            self.recipes[f"{to}.bias"] = self._bias(source, rows_)

    def _bias(self, source: str, length: int) -> Recipe:
        return of(f"{source}.bias") if f"{source}.bias" in self.shapes else filled(0, length)

    def _norm(self, to: str, source: str) -> None:
        weight = of(f"{source}.weight") if f"{source}.weight" in self.shapes else filled(1, self.size.model)
        offset = self.factors.norm
        self.recipes[f"{to}.weight"] = weight.then(lambda tensor: tensor + offset) if offset else weight
        if self.family.architecture is not REFACT and (
            f"{source}.bias" in self.shapes or self.family.architecture is not MPT
        ):
            self.recipes[f"{to}.bias"] = self._bias(source, self.size.model)

    def _matrix(self, source: str) -> Recipe:
        return self._oriented(f"{source}.weight")

    def _oriented(self, name: str) -> Recipe:
        """A matrix as (out, in), a bias as it is."""
        transposed = self.layout.transposed and len(self.shapes[name]) == 2
        return of(name).then(torch.t) if transposed else of(name)
