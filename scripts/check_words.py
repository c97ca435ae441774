"""Finds words that readers of the field would have to decode, and names the ones to write instead.

python scripts/check_words.py [FILE …]
Without arguments: every file that a reader may see. Spelling is codespell's part.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = ("alibi_cli", "benchmarks", "docs", "examples", "presets", "scripts", "tests", ".github")
ENDINGS = (".cff", ".ipynb", ".md", ".py", ".pyi", ".toml", ".yaml", ".yml")
# Checkpoints as an earlier version wrote them, a text that is scored, and the list itself.
LEFT_OUT = ("tests/fixtures", "tests/fuzz/corpus", "scripts/check_words.py")

# (pattern, what to write instead, a sentence in which it is found)
WORDS = (
    (r"noughts?", "zero", "the bias is nought"),
    (r"dear(er|est)?", "expensive", "a fixture that is dear to make"),
    (r"(let|lets|letting) go( of)?|let_go", "evict, release", "pages are let go of"),
    (r"promise[sd]?|promising", "declared (length), guaranteed", "the promised length of the config"),
    (r"rivals?", "baseline", "faster than its rival"),
    (r"peers?", "baseline, other tools", "the peer holds the model"),
    (r"(?<![\"'`.|])crop(s|ped)?(?![\"'`])", "truncated, truncation baseline", "the crop arm"),
    (r"(?<!progress )bars?", "target", "a ratio below its bar meets it"),
    (r"\d[\d,]* words", "vocabulary size", "a vocabulary of 50,257 words"),
    (r"tables? of positions?|positions? tables?", "learned or absolute position embeddings", "a table of positions"),
    (r"(learned|sinusoidal) tables?", "learned or sinusoidal position embeddings", "the learned table ends"),
    (r"(\d+|times|every|each|a) pass(es)? over (the|a) text|passes a text", "epoch", "every pass over the text"),
    (r"gradients? (is|are) shortened", "gradient clipping", "longer gradients are shortened"),
    (r"rotation by zero", "identity rotation", "a rotation by zero"),
    (r"distance at -ln", "the distance at which a weight is divided by 100", "distance at -ln 100"),
    (
        r"(the|these|other) seeds' (code|tests)|seed implementations?",
        "prior implementations",
        "the seed implementations",
    ),
    (r"(wins?|won|winning) back", "recover", "calibration wins back most of it"),
    (r"anew", "again, from scratch", "the mask is made anew"),
    (r"mended", "fixed", "tracebacks, mended since"),
    (r"foretold|foretells?", "estimated", "costs are foretold"),
    (r"of one's own", "your own", "a preset of one's own"),
    (r"nobody meant", "malformed", "inputs that nobody meant"),
)
PATTERN = re.compile("|".join(rf"(?P<w{n}>\b(?:{words[0]})\b)" for n, words in enumerate(WORDS)), re.IGNORECASE)


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, words, what to write instead)"""
    for match in PATTERN.finditer(text):
        assert match.lastgroup is not None
        yield text.count("\n", 0, match.start()) + 1, match[0], WORDS[int(match.lastgroup[1:])][1]


def files() -> list[Path]:
    inside = (path for place in PLACES for path in sorted((ROOT / place).rglob("*")) if path.suffix in ENDINGS)
    found = [path for path in (*sorted(ROOT.glob("*")), *inside) if path.suffix in ENDINGS or path.name == "Makefile"]
    return [path for path in found if not path.relative_to(ROOT).as_posix().startswith(LEFT_OUT)]


def main(names: list[str]) -> int:
    wrong = 0
    for path in [Path(name) for name in names] or files():
        for line, words, better in found_in(path.read_text(encoding="utf-8")):
            print(f"{path}:{line}: {words!r}: write {better}")
            wrong += 1
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
