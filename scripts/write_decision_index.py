"""Writes docs/decisions/README.md: the decisions, by number, with what their first line says. `--check` compares instead.

python scripts/write_decision_index.py [--check]
"""

from pathlib import Path

from generated import bring_up_to_date

FOLDER = Path(__file__).parent.parent / "docs" / "decisions"
HEAD = """# Decisions

Choices that a reader of the code would question: what was chosen, what was rejected, and the measurements behind it. Written by
`make docs`.

| | |
|---|---|
"""


def render() -> str:
    rows = []
    for path in sorted(FOLDER.glob("[0-9]*.md")):
        number, _, title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(": ")
        rows.append(f"| {number} | [{title}]({path.name}) |\n")
    return HEAD + "".join(rows)


def main() -> None:
    bring_up_to_date(FOLDER / "README.md", render())


if __name__ == "__main__":
    main()
