"""Writes the map of files into docs/architecture.md, from the first sentence of each file. `--check` compares instead.

python scripts/write_architecture.py [--check]
"""

import ast
import re
from pathlib import Path

from generated import bring_up_to_date

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: written by scripts/write_architecture.py -->", "<!-- end of files -->"
# From what a user calls down to what knows nothing of models.
PACKAGES = (
    "",
    "cli",
    "settings",
    "reporting",
    "training",
    "conversion",
    "calibration",
    "evaluation",
    "evaluation/tasks",
    "exporting",
    "serving",
    "attention",
    "nn",
    "compat",
    "surgery",
    "models",
    "text",
    "plots",
    "engines",
    "files",
    "runtime",
)


def first_sentence(path: Path) -> str:
    doc = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<! al)\. ", doc)[0].rstrip(".").replace("|", "\\|")


def render() -> str:
    found = {
        each.parent.relative_to(ROOT / "alibi_cli").as_posix() for each in (ROOT / "alibi_cli").rglob("__init__.py")
    }
    if left_out := found - {*PACKAGES, "."}:
        raise SystemExit(f"PACKAGES lacks {', '.join(sorted(left_out))}.")
    parts = []
    for package in PACKAGES:
        folder = ROOT / "alibi_cli" / package
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py"))
        parts += [
            f"### alibi_cli/{package}".rstrip("/"),
            "",
            f"{first_sentence(folder / '__init__.py')}. {lines:,} lines.",
            "",
        ]
        parts += ["| file | |", "|---|---|"]
        parts += [f"| `{path.name}` | {first_sentence(path)} |" for path in files] + [""]
    return "\n".join(parts)


def main() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    bring_up_to_date(DOCUMENT, f"{before}{BEGIN}\n\n{render()}\n{END}{after}")


if __name__ == "__main__":
    main()
