"""Settings of the benchmark of attention."""

from dataclasses import dataclass
from typing import Annotated, Literal

from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.shared import LONGEST, Lengths, checked_lengths, parse_names


@dataclass(frozen=True, kw_only=True)
class BenchAttentionSettings(Verb):
    """Which attention backends are measured, on which inputs."""

    lengths: Lengths = (512, 1024, 2048, 4096)
    heads: Annotated[int, Setting("Number of attention heads.", minimum=1, maximum=4096)] = 12
    head_dim: Annotated[int, Setting("Width of a head.", minimum=1, maximum=LONGEST)] = 64
    batch: Annotated[int, Setting("Sequences per call.", minimum=1, maximum=LONGEST)] = 1
    repeats: Annotated[int, Setting("Timed calls, of which the median is shown.", minimum=1, maximum=LONGEST)] = 3
    backends: Annotated[
        tuple[str, ...],
        Setting("Backends to measure. Default: every registered backend.", metavar="NAME,…", parse=parse_names),
    ] = ()
    device: Annotated[str, Setting("cpu, cuda, …; auto takes a GPU if there is one.")] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Setting("Dtype of the inputs.")] = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", checked_lengths(self.lengths))
