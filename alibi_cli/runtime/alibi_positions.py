"""Positions: what stands where a family had them, and the functions that take them out of its modules or keep them.

A function is called with each module of a class that a policy names, and returns the module or what stands in its place; None leaves it.
"""

import struct
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    Part = Any  # a module whose attributes are its family's own
else:
    Part = torch.nn.Module

# Names under which models keep the embedding of positions that they add to the embedding of tokens.
POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "positions_embed")


class NoPosition(torch.nn.Module):
    """Stands where positions of some width were added: adds nothing, or one learned vector, the same at every position.

    Nothing is a 0-dim zero, which broadcasts and changes neither dtype nor device of the sum.
    """

    vector: torch.nn.Parameter | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_parameter("vector", None)

    def learn_vector(self, dtype: torch.dtype, device: Any, learns: bool = True) -> None:
        """From now on add a vector, which is zero until it is trained or loaded; or, if not `learns`, nothing."""
        if not learns:
            self.vector = None
        elif self.vector is None:
            self.vector = torch.nn.Parameter(torch.zeros(self.width, dtype=dtype, device=device))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros(()) if self.vector is None else self.vector

    __getitem__ = forward  # where positions were rows of a buffer


class NoRotation(torch.nn.Module):
    """Stands where a rotary embedding was: the identity rotation, cos = scaling and sin = 0, as (1, 1, width) each.

    `scaling` is the factor with which YaRN and its like multiply cos and sin; queries and keys must keep it.
    """

    def __init__(self, width: int, scaling: float) -> None:
        super().__init__()
        self.width, self.scaling = width, scaling

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return x.new_full((1, 1, self.width), self.scaling), x.new_zeros((1, 1, self.width))


class NoTable:
    """Stands where position embeddings were kept as a buffer: every row is zero. No tensor, so that nothing fills it on loading."""

    _is_hf_initialized = True

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.zeros(())


class SineTable(NoTable):
    """Sines and cosines of a rotation, of the positions that are asked for: the stock buffer ends at a length."""

    device = None

    def __init__(self, width: int) -> None:
        self.width = width

    @property
    def inv_freq(self) -> Tensor:
        """(width / 2,), as transformers' create_sinusoidal_positions computes them"""
        return 1.0 / (10000 ** (torch.arange(0, self.width, 2, dtype=torch.int64) / self.width))

    def __getitem__(self, index: Tensor) -> Tensor:
        """(…) -> (…, width)"""
        angle = index[..., None].float() * self.inv_freq.float().to(index.device)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class NoSineTable(NoTable):
    """The same where a row holds the sines and cosines of a rotation: the identity rotation."""

    device = None

    def __init__(self, width: int) -> None:
        self.width = width

    def __getitem__(self, index: Tensor) -> Tensor:
        ones = torch.ones(*index.shape, self.width // 2, device=index.device)
        return torch.cat([torch.zeros_like(ones), ones], dim=-1)


def turns_back(answer: bool) -> Any:
    """Decorator: whether the rotation that a policy keeps can be turned back. See `can_turn_back`."""

    def note(function: Any) -> Any:
        function.turns_back = answer
        return function

    return note


def can_turn_back(functions: Any) -> bool:
    """True if, among the functions of a policy that reach a model, one keeps a rotation that can be turned back, and none gives the bias to
    attention that computes its scores elsewhere: see `alibi_sink_distance`. A function says so by its attribute `turns_back`."""
    said = {getattr(function, "turns_back", None) for function in functions}
    return True in said and False not in said


def rotates(module: Any) -> bool:
    """False for attention that leaves its queries and keys unrotated: some layers of SmolLM 3, and those of Cohere 2 without a window."""
    if module.config.model_type.endswith("cohere2"):
        return module.sliding_window is not None
    return bool(getattr(module, "use_rope", True))


def drop_position_table(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Added positions (learned or sinusoidal): add nothing instead."""
    changed = None
    for name in POSITION_TABLES:
        table = getattr(module, name, None)
        if isinstance(table, torch.nn.Module):
            if not isinstance(table, NoPosition):
                width: Any = table.embedding_dim
                setattr(module, name, NoPosition(width))
            changed = module
    return changed


def drop_position_table_of_encoder(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """BERT and RoBERTa: as above, and free the token types, whose default comes from a buffer of the old maximum length."""
    if getattr(module, "_alibi_token_types", None) is None:
        module._alibi_token_types = True
        module.register_forward_pre_hook(_default_token_types, with_kwargs=True)
    return drop_position_table(module, module_index, max_sequence_length)


def _default_token_types(module: Any, args: Any, kwargs: Any) -> Any:
    if len(args) < 2 and kwargs.get("token_type_ids") is None:
        ids = args[0] if args else kwargs.get("input_ids")
        shaped_like = ids if ids is not None else kwargs["inputs_embeds"][..., 0]
        kwargs["token_type_ids"] = torch.zeros_like(shaped_like, dtype=torch.long)
    return args, kwargs


def drop_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Rotary positions: the identity rotation. The width is that of the rotated part, which may be less than the head."""
    return NoRotation(*_rotation(module, 2))


@turns_back(True)
def keep_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Rotary positions that stay; it is noted how their halves belong together."""
    module.alibi_interleaved = False
    return module


@turns_back(True)
def keep_interleaved_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """The same for families that rotate neighbouring dimensions against each other."""
    module.alibi_interleaved = True
    return module


def drop_half_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """The same for families that hand on one cosine per pair instead of two equal ones."""
    return NoRotation(*_rotation(module, 1))


def _rotation(module: Any, per_frequency: int) -> tuple[int, float]:
    """(width, scaling) of a rotary embedding. Families with one set of frequencies per type of layer have the same width in all.

    The scaling is kept in the config: some kinds of rotation derive it from the maximum length, which conversion changes.
    """
    kinds = [name for name in module._buffers if name.endswith("inv_freq") and "original" not in name]
    widths = {per_frequency * module._buffers[name].numel() for name in kinds}
    scalings = {float(getattr(module, name.replace("inv_freq", "attention_scaling"), 1.0)) for name in kinds}
    if len(widths) != 1 or len(scalings) != 1:
        raise ValueError(
            f"{type(module).__name__} rotates layers by different widths or scales, which is not supported."
        )
    if getattr(module.config, "alibi_rotary_scaling", None) is None:
        # In float32, as the stock module multiplies.
        module.config.alibi_rotary_scaling = struct.unpack("f", struct.pack("f", scalings.pop()))[0]
    return widths.pop(), module.config.alibi_rotary_scaling


def share_config(module: Part, module_index: int, max_sequence_length: int) -> None:
    """Attention modules that keep no config get their model's: it holds the slopes. (A model is visited before its parts.)"""
    for part in module.modules():
        if type(part).__name__.endswith("Attention") and not hasattr(part, "config"):
            part.config = module.config


def drop_position_table_and_share_config(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """XGLM: both."""
    share_config(module, module_index, max_sequence_length)
    return drop_position_table(module, module_index, max_sequence_length)


def drop_position_buffer(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Added positions that are computed once and kept as a buffer."""
    table = module._buffers.pop("pos_encoding", None)
    if table is not None:
        module.pos_encoding = NoPosition(table.shape[-1])
    return module
