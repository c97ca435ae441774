"""Settings that several verbs share, and how their text is read."""

from pathlib import Path
from typing import Annotated, Literal

from alibi_cli.errors import UsageError
from alibi_cli.settings.declaration import Setting, parse_count

LONGEST = 1 << 31  # no tensor is sized by it, but figures must stay readable
MOST_MAX_BIAS = 126  # 2^-127 is no normal number in float32
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
SplitOn = Literal["file", "blank-line"]

Model = Annotated[str, Setting("A local folder, or the name of a Hub repository.", argument=True, metavar="MODEL")]
Revision = Annotated[str | None, Setting("Branch, tag or commit of a Hub repository.", preset=False)]
TrustRemoteCode = Annotated[
    bool,
    Setting(
        "Let a model's own Python code run. Off unless given; stock families do not need it.",
        panel="Dangerous options",
        preset=False,
    ),
]
Plugin = Annotated[
    tuple[Path, ...],
    Setting("Load a plug-in that registers policies; repeatable.", metavar="FILE.py", preset=False),
]
MaxBias = Annotated[
    float | None, Setting("Exponent of the gentlest slope, 2^-B, instead of Press's 8.", above=0, maximum=MOST_MAX_BIAS)
]
Command = Annotated[str, Setting("What the record says was run.", option=False, preset=False)]


def parse_lengths(text: str) -> tuple[int, ...]:
    """'512,1024,2048', or '512:8192' for every doubling of 512 up to 8192.

    Raises:
        UsageError: it is neither.
    """
    try:
        if ":" in text:
            first, last = (parse_count(part) for part in text.split(":"))
            lengths = []
            while 0 < first <= last:
                lengths.append(first)
                first *= 2
        else:
            lengths = [parse_count(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"`lengths`: {text!r} is not a list like 512,1k,2k or a range like 512:8k.") from None
    if not lengths:
        raise UsageError(f"`lengths`: {text!r} holds none.")
    return tuple(lengths)


def checked_lengths(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Ascending, each once.

    Raises:
        UsageError: there are none, or not all are whole numbers from 2 on.
    """
    wrong = [length for length in lengths if type(length) is not int or not 2 <= length <= LONGEST]
    if wrong or not lengths:
        what = f"{wrong[0]!r} is not one" if wrong else "there are none"
        raise UsageError(f"`lengths` are whole numbers from 2 to {LONGEST:,}; {what}.")
    return tuple(sorted(set(lengths)))


def parse_names(text: str) -> tuple[str, ...]:
    """'a, b' -> ('a', 'b'); none in 'none'."""
    return () if text.strip() == "none" else tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def parse_schedule(text: str) -> tuple[tuple[int, float], ...]:
    """'512:0.7,1024:0.3' -> ((512, 0.7), (1024, 0.3)).

    Raises:
        UsageError: it is no such list.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple((parse_count(length), float(share)) for length, share in pairs)
    except ValueError:
        raise UsageError(f"`length_schedule`: {text!r} is not a list like 512:0.7,1024:0.3.") from None


Lengths = Annotated[
    tuple[int, ...],
    Setting(
        "Sequence lengths in tokens: a list, or every doubling from A to B.", metavar="L,L,…|A:B", parse=parse_lengths
    ),
]
