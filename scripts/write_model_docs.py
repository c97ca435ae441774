"""Writes docs/supported-models.md from the registered policies. `--check` compares instead.

python scripts/write_model_docs.py [--check]
"""

from pathlib import Path

from generated import bring_up_to_date

from alibi_cli.exporting.architectures import FAMILIES
from alibi_cli.models.families import REFUSED, family_policies

DOCUMENT = Path(__file__).parent.parent / "docs" / "supported-models.md"
HEAD = """# Supported models

Written from the policies by `make docs`; `alibi inspect policies` lists the module classes and the code that converts each. The tests
compare every row with an independent float64 reference.

`replace` puts ALiBi in the place of the positions; `add` keeps a rotation and adds the bias to its scores
([policies](concepts/policies.md)). GGUF: the architecture of llama.cpp that `alibi export` writes
([converted checkpoints in llama.cpp](engines.md)).

| family | positions of the original | `replace` | `add` | GGUF |
|---|---|---|---|---|
"""
TAIL = """
Another family takes [two lines](adding-a-family.md), if it works like one of these.

**Refused**

{refused}

Falcon keeps its rotation under `add`, but its slopes cannot be calibrated there, because its attention shows neither queries nor keys to
the calibration: give them in a file.

Encoder-decoders (bart, marian, t5) are converted, but neither evaluated nor calibrated nor trained: there is no single text to cut into
windows.
"""
# What a policy of `replace` takes away: the original's positions in words. The first that fits.
POSITIONS = {
    "own_bias": "ALiBi already: only its slopes change",
    "relative_bias": "learned relative bias",
    "rotation": "rotary",
    "sine_buffer": "rotary",
    "position_table": "learned or sinusoidal embeddings",
    "position_buffer": "sinusoidal embeddings",
    "openai_gpt": "learned embeddings",
}


def positions(family: str) -> str:
    names = " ".join(name for _, name, _ in family_policies()[family])
    return next(words for part, words in POSITIONS.items() if part in names)


def render() -> str:
    added = family_policies("add")
    rows = [
        f"| {family} | {positions(family)} | yes | {'yes' if family in added else 'no'} "
        f"| {f'`{FAMILIES[family].architecture.name}`' if family in FAMILIES else '–'} |"
        for family in family_policies()
    ]
    refused = "\n".join(f"- {name}: {reason}." for name, reason in REFUSED.items())
    return HEAD + "\n".join(rows) + "\n" + TAIL.format(refused=refused)


def main() -> None:
    bring_up_to_date(DOCUMENT, render())


if __name__ == "__main__":
    main()
