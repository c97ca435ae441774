"""What a conversion writes beside the source's own tensors: slopes and tensors that calibration found."""

from dataclasses import dataclass, field
from typing import Any

import torch

from alibi_cli.slopes import Slopes


@dataclass(frozen=True)
class Learned:
    """slopes, offsets, sinks, sink_distance: see `apply_alibi`. added: position vectors; changed: normalisation weights; both
    {the converted model's name: tensor}. record: how they came about, for alibi.json."""

    scheme: str
    slopes: Slopes
    offsets: Slopes | None = None
    sinks: int | None = 0
    sink_distance: int | None = None
    added: dict[str, torch.Tensor] = field(default_factory=dict)
    changed: dict[str, torch.Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What `apply_alibi` needs of it."""
        return {
            "policy": self.record["policy"],
            "slopes": self.slopes,
            "offsets": self.offsets,
            "sinks": self.sinks or 0,
            "sink_distance": self.sink_distance,
            **({"position_vector": True} if self.added else {}),
        }
