"""Short names for tables and pictures: of models, where they are unique, of texts, and of sinks. Records keep the full ones."""

from collections.abc import Iterable
from textwrap import shorten

CONVERTED = "alibi_"  # begins the model_type of a converted checkpoint
ROOM = 19  # characters: a table's figures then fit beside it on 80 columns
CUT = "…"


def short_names(names: Iterable[str], room: int = ROOM) -> dict[str, str]:
    """{name: label}: as many of its last folders as tell it from the others, the middle left out where that is too long."""
    known = list(dict.fromkeys(names))
    parts = {name: [part for part in name.split("/") if part] or [name] for name in known}
    labels: dict[str, str] = {}
    for name in known:
        others = [parts[other] for other in known if other != name]
        ends = ((n, parts[name][-n:]) for n in range(1, len(parts[name]) + 1))
        labels[name] = next(("/".join(end) for n, end in ends if all(other[-n:] != end for other in others)), name)
    return _cut(labels, room)


def counted(n: int, what: str) -> str:
    """1 step, 2 steps."""
    return f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('s') else 's'}"


def short_text(name: str, room: int = 60) -> str:
    """Of a text that is many files, the first names."""
    return shorten(name, room, placeholder=f" {CUT}")


def first_tokens(n: int) -> str:
    """What attention sinks are, in words."""
    return f"the first {n} tokens of a document" if n > 1 else "the first token of a document"


def _cut(labels: dict[str, str], room: int) -> dict[str, str]:
    """Two that are alike after the cut are told apart by a number."""
    found: dict[str, str] = {}
    for name, label in labels.items():
        short, n = _middle_out(label, room), 1
        while short in found.values():
            n += 1
            short = f"{_middle_out(label, room - len(str(n)) - 1)}~{n}"
        found[name] = short
    return found


def _middle_out(label: str, room: int) -> str:
    if len(label) <= room:
        return label
    kept = room - len(CUT)
    return label[: kept // 2] + CUT + label[-(kept - kept // 2) :]
