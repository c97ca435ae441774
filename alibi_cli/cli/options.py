"""Types of arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer


class Lengths(tuple[int, ...]):
    """Sequence lengths in tokens, ascending."""


def parse_lengths(text: str) -> Lengths:
    """'512,1024,2048', or '512:8192' for every doubling of 512 up to 8192."""
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            lengths = []
            while 0 < first <= last:
                lengths.append(first)
                first *= 2
        else:
            lengths = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list like 512,1024,2048 or a range like 512:8192.") from None
    if not lengths or min(lengths) < 2:
        raise typer.BadParameter(f"{text!r}: lengths are whole numbers from 2 on, ascending.")
    return Lengths(lengths)


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A local folder, or the name of a Hub repository.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.", show_default=False)]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Let MODEL's own Python code run. Off unless given; stock families do not need it.",
        rich_help_panel="Dangerous options",
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        metavar="replace|add|NAME",
        help="replace: ALiBi instead of the model's positional encoding, as in the paper. add: the bias beside a rotation that stays. "
        "NAME: a plug-in's policy.",
    ),
]
Sinks = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Attention sinks: how many first tokens of every document get no bias. Default: 0, or what calibration chooses.",
        show_default=False,
    ),
]
SlopesFrom = Annotated[
    str,
    typer.Option(
        "--slopes",
        metavar="press|calibrated|FILE",
        help="Press et al.'s slopes; slopes that imitate the original's attention; or a JSON file: one list, or one list per layer.",
    ),
]
Calibrate = Annotated[
    Literal["reach", "look-back", "distil", "distil+norms"] | None,
    typer.Option(
        help="How --slopes calibrated finds slopes. reach (for --policy add): the gentlest that hide what lies beyond the trained length, "
        "in one forward pass. look-back (for replace): from how far each head looks back. distil: by imitating the original's predictions. "
        "distil+norms (for replace): normalisation weights too. Default: reach for add, distil for replace.",
        show_default=False,
    ),
]
CalibrationText = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="Calibrate on this text; repeatable. Default: the embedded text.", show_default=False
    ),
]
CalibrationTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens that are fed to learn from, one window at least. Default: 262144 for distil, 65536 of an added bias; 16384 for reach "
        "and look-back.",
        show_default=False,
    ),
]
CalibrationLength = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Tokens of the longest window that calibration feeds. Default: for --policy add 1.5 (reach) or 4 (distil) times the trained "
        "length; for replace the trained length.",
        show_default=False,
    ),
]
Horizon = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Calibrate an added bias for the last H tokens instead of the trained length.",
        metavar="H",
        show_default=False,
    ),
]
Grid = Annotated[
    Literal["press"] | None,
    typer.Option(
        help="press: end a calibration of --policy replace on Press et al.'s slopes, in the order nearest to what was found, so that alibi "
        "export can write them.",
        show_default=False,
    ),
]
Offset = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Distance in tokens up to which an added bias is zero: -m max(0, |i - j| - N). 0 is the textbook bias. Default: the trained "
        "length, or the horizon, with calibrated slopes; 0 with others.",
        metavar="N",
        show_default=False,
    ),
]
MaxBias = Annotated[
    float | None, typer.Option(help="Exponent of the gentlest slope, 2^-B, instead of Press's 8.", show_default=False)
]
MaxSequenceLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The length that the config promises; no table is sized by it. Default: 4 x the trained length.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Where to write. Default: MODEL's name + -alibi.", show_default=False
    ),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE.py", help="Load a plug-in that registers policies; repeatable.", show_default=False),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Settings from presets/NAME.yaml; options given here win.", show_default=False),
]
