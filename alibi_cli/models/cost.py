"""What a forward pass of a model costs, in operations and in bytes, before its weights are read: from shapes alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from alibi_cli.files.tensor_files import read_header
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.models.loading import resolved_dtype
from alibi_cli.runtime.alibi_positions import POSITION_TABLES

# A score of attention is read and written several times around its two products, which keeps memory busy and not arithmetic.
SCORES = 3
WIDTHS = 10  # numbers of the model's width that are alive at once for a token, in the layer that runs
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """matrices: numbers that every token is multiplied with; of experts, those that a token goes to. head: the same for a token that is
    scored. heads, width: of the attention of one layer. inner: the widest layer within a block. weight_bytes: in the type that computes.
    """

    matrices: int
    head: int
    layers: int
    heads: int
    width: int
    inner: int
    weight_bytes: int
    item_bytes: int
    materialised: bool

    def operations(self, length: int, scored: int) -> float:
        """Multiplications and additions for one window of `length` tokens, of which `scored` are scored."""
        attention = 4.0 * length * length * self.width * self.layers * SCORES
        return 2.0 * self.matrices * length + 2.0 * self.head * scored + attention

    def peak_bytes(self, length: int, windows: int, logits: int) -> int:
        """Of memory, while so many windows are computed at a time, and so many logits."""
        tokens = length * windows
        activations = tokens * (WIDTHS * self.width + 3 * self.inner)
        scores = 2 * windows * self.heads * length * length if self.materialised else 0
        return self.weight_bytes + self.item_bytes * (activations + scores) + 2 * max(4, self.item_bytes) * logits


def cost_of(info: ModelInfo, device: str, dtype: str) -> Cost:
    """
    Raises:
        AlibiError: a file of weights that cannot be read.
    """
    if info.engine is not None:
        size = info.files.stat().st_size
        return Cost(size // 2, 0, 0, 1, 1, 1, size, 4, False)
    item = BYTES.get(resolved_dtype(info, device, dtype), 4)
    return cost_of_shapes(_config(info), _shapes(info), item, info.attention == "eager")


def cost_of_shapes(
    config: Any, shapes: Iterable[tuple[str, tuple[int, ...]]], item_bytes: int = 4, materialised: bool = False
) -> Cost:
    """config: the stock one. shapes: of the tensors, by name. item_bytes: of the type that computes."""
    config = config.get_text_config()
    vocabulary, hidden, heads = (_number(config, name) for name in ("vocab_size", "hidden_size", "num_attention_heads"))
    share = _number(config, "num_experts_per_tok") / _number(config, *EXPERTS)
    matrices = inner = parameters = 0
    tables = []
    for name, shape in shapes:
        size = prod(shape)
        parameters += size
        if len(shape) < 2 or name.removesuffix(".weight").rpartition(".")[2] in POSITION_TABLES:
            continue
        if vocabulary in shape:
            tables.append(size)
            continue
        matrices += round(size * share) if ".experts." in f".{name}." else size
        inner = max(inner, *shape[-2:])
    return Cost(
        matrices=matrices,
        head=max(tables, default=vocabulary * hidden),
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        width=heads * _number(config, "head_dim", default=max(1, hidden // heads)),
        inner=inner,
        weight_bytes=parameters * item_bytes,
        item_bytes=item_bytes,
        materialised=materialised,
    )


def _number(config: Any, *names: str, default: int = 1) -> int:
    """What a config has under the first of these names; of a list, one for each layer, the largest."""
    found = next((getattr(config, name) for name in names if getattr(config, name, None)), default)
    return int(max(found)) if isinstance(found, (list, tuple)) else int(found)


def _config(info: ModelInfo) -> Any:
    """The stock configuration, by transformers' names."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    stock = info.loaded if info.loaded is not None else info.skeleton
    return stock.config if stock is not None else CONFIG_MAPPING[info.base_type].from_dict(dict(info.raw_config))


def _shapes(info: ModelInfo) -> Iterator[tuple[str, tuple[int, ...]]]:
    stock = info.loaded if info.loaded is not None else info.skeleton
    if stock is not None:  # on the meta device, if it is not in memory
        yield from ((name, tuple(tensor.shape)) for name, tensor in stock.named_parameters())
        return
    for path in sorted(info.files.glob("*.safetensors")):
        yield from ((name, tensor.shape) for name, tensor in read_header(path).tensors.items())
