"""Tables and a figure from the committed sums alone: neither the model nor the text is needed.

The unit of resampling is the document. A difference is paired: both arms are read at the same tokens of the same resampled documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alibi_cli.evaluation.statistics import DEGRADES, NO_CHANGE, interval
from benchmarks.real_model.arms import ARMS, HORIZON, HORIZON_LENGTH, TRAINED_LENGTH, Arm
from benchmarks.real_model.documents import LENGTH
from benchmarks.real_model.evaluation_texts import evaluation_documents
from benchmarks.real_model.records import BANDS, Sums

BEGIN, END = "<!-- real model: begin (make study) -->", "<!-- real model: end -->"
NEAR = (0, TRAINED_LENGTH)
FAR = tuple(band for band in BANDS if band[0] >= TRAINED_LENGTH)
HORIZON_BANDS = tuple(band for band in BANDS if band[1] <= HORIZON_LENGTH)
ORIGINAL, BASELINE, WINDOW, HORIZON_BASELINE = "original", "streaming", "window+sinks", "horizon-window+sinks"
NONE = "–"


@dataclass(frozen=True)
class Difference:
    """mean, low, high: of the difference in NLL, nats per token, with its 95 % interval (None for one document)."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + ("" if self.low is None else f" [{self.low:+.4f}, {self.high:+.4f}]")

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None:
            return "one document: no interval"
        return "better" if self.high < 0 else DEGRADES if self.low > 0 else NO_CHANGE


class Study:
    """The sums of all arms that have been measured."""

    def __init__(self, arms: Sequence[Arm] = ARMS):
        self.arms = [arm for arm in arms if Sums.read(arm.name) is not None]
        self.sums = {arm.name: sums for arm in self.arms if (sums := Sums.read(arm.name)) is not None}
        self.kinds = {document.name: document.kind for document in evaluation_documents()}

    @property
    def baseline(self) -> str:
        """The best of what needs no conversion, among the arms that were measured."""
        return WINDOW if WINDOW in self.sums and BASELINE not in self.sums else BASELINE

    def mean(self, arm: str, start: int, end: int) -> float | None:
        """None unless all of the arm's documents reach so far: bands of different documents are not to be compared."""
        if arm not in self.sums or len(names := self.sums[arm].reaching(end)) < len(self.sums[arm].tokens):
            return None
        sums, counts = self.sums[arm].over(start, end, names)
        return float(sums.sum() / counts.sum())

    def difference(self, arm: str, other: str, start: int, end: int, kind: str | None = None) -> Difference | None:
        """arm - other over (start, end], on the documents (of a kind) that both have; None if there are none."""
        if arm not in self.sums or other not in self.sums:
            return None
        ours, theirs = self.sums[arm], self.sums[other]
        names = [
            name
            for name in ours.reaching(end)
            if name in theirs.reaching(end)
            and ours.tokens[name] == theirs.tokens[name]
            and kind in (None, self.kinds.get(name))
        ]
        if not names:
            return None
        (a, counts), (b, _) = ours.over(start, end, names), theirs.over(start, end, names)
        low, high = interval(a - b, counts) or (None, None)
        return Difference(float((a - b).sum() / counts.sum()), low, high)


def tables(study: Study) -> str:
    """All tables as Markdown."""
    if not study.arms:
        return "No records yet: `make study` makes them."
    free, converted = (
        [arm for arm in study.arms if bool(arm.command) == made and arm.length == LENGTH] for made in (False, True)
    )
    windows = []
    if WINDOW in study.sums and converted and study.baseline != WINDOW:
        words = f"Against {WINDOW}, `alibi eval --arms {WINDOW}`, whose first tokens keep their rotation:"
        windows = [words, against(study, WINDOW, converted, FAR)]
    parts = [
        facts(study),
        "**NLL in nats per token, by the number of tokens before the one that is predicted**",
        by_band(study, free, BANDS),
        by_band(study, converted, BANDS),
        "With a horizon of 1,024:",
        by_band(study, [arm for arm in study.arms if arm.length < LENGTH or arm.name == ORIGINAL], HORIZON_BANDS),
        "**Differences, with 95 % intervals over documents.** Up to 8,192 tokens against the original; beyond them, where the "
        f"original breaks down, against the best that it can do without any conversion, {study.baseline}. Below zero is better.",
        differences(study, free),
        differences(study, converted),
        *windows,
        f"The same with a horizon of 1,024, against {HORIZON_BASELINE}:",
        at_the_horizon(study),
        "**By kind of text**, means only",
        by_kind(study, [*free, *converted]),
    ]
    return "\n\n".join(parts)


def facts(study: Study) -> str:
    named = sorted({name for sums in study.sums.values() for name in sums.of})
    fewest = min(len(sums.of) for sums in study.sums.values())
    text = f"{len(named)} documents: {', '.join(named)}."
    return (
        text
        if fewest == len(named)
        else f"{text} Not all arms have been measured on all of them: at least on {fewest}."
    )


def by_band(study: Study, arms: Sequence[Arm], bands: Sequence[tuple[int, int]]) -> str:
    rows = []
    for arm in arms:
        means = [study.mean(arm.name, *band) for band in bands]
        rows.append([f"{arm.name}: {arm.what}", *(NONE if mean is None else f"{mean:.3f}" for mean in means)])
    return table(["arm", *(f"≤{end:,}" for _, end in bands)], rows)


def differences(study: Study, arms: Sequence[Arm]) -> str:
    rows = []
    for arm in arms:
        if arm.name == ORIGINAL:
            continue
        near = study.difference(arm.name, ORIGINAL, *NEAR)
        far = [
            study.difference(arm.name, study.baseline, *band) if arm.name != study.baseline else None for band in FAR
        ]
        rows.append([arm.name, *(NONE if found is None else str(found) for found in (near, *far))])
    return table(["arm", "0–8,192", *(f"{start:,}–{end:,}" for start, end in FAR)], rows)


def by_kind(study: Study, arms: Sequence[Arm]) -> str:
    rows = []
    for arm in arms:
        if arm.name in (ORIGINAL, study.baseline):
            continue
        found = [
            study.difference(arm.name, other, *band, kind=kind)
            for other, band in ((ORIGINAL, NEAR), (study.baseline, (TRAINED_LENGTH, LENGTH)))
            for kind in ("prose", "code")
        ]
        rows.append([arm.name, *(NONE if each is None else f"{each.mean:+.4f}" for each in found)])
    return table(["arm", "prose, 0–8,192", "code, 0–8,192", "prose, 8,192–16,384", "code, 8,192–16,384"], rows)


def at_the_horizon(study: Study) -> str:
    """Conversions for a horizon against the window of that length, where something lies beyond it."""
    arms = [arm for arm in study.arms if arm.name.startswith("horizon-") and arm.name != HORIZON_BASELINE]
    return against(study, HORIZON_BASELINE, arms, [band for band in HORIZON_BANDS if band[0] >= HORIZON])


def against(study: Study, other: str, arms: Sequence[Arm], bands: Sequence[tuple[int, int]]) -> str:
    rows = []
    for arm in arms:
        found = [study.difference(arm.name, other, *band) for band in bands]
        rows.append([arm.name, *(NONE if each is None else str(each) for each in found)])
    return table(["arm", *(f"{start:,}–{end:,}" for start, end in bands)], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def into_page(page: Path, figure: Path) -> None:
    """Replaces the marked block of a page, which is made if it is not there, and draws the figure beside it."""
    study = Study()
    text = page.read_text() if page.exists() else f"# What a conversion does to a real model\n\n{BEGIN}\n{END}\n"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    picture = f"![Difference of NLL by position]({figure.name})\n\n" if draw(study, figure) else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n\n{picture}{tables(study)}\n\n{END}{after}")


# Okabe and Ito's colours, which colour-blind people can tell apart; the dashes tell them apart in grey.
STYLES = (
    ("#000000", "-"),
    ("#D55E00", "--"),
    ("#0072B2", "-"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#E69F00", (0, (5, 1))),
    ("#56B4E9", (0, (3, 1, 1, 1))),
)
STEP, TOP = 1024, 1.0  # tokens of one point; nats, above which lines leave the picture


def draw(study: Study, path: Path) -> bool:
    """The difference to the baseline by position; False if there is nothing to draw."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    arms = [arm for arm in study.arms if arm.drawn and study.baseline in study.sums]
    lines = {arm.name: _line(study, arm.name) for arm in arms}
    if not any(lines.values()):
        return False
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    shown = [value for points in lines.values() for _, value in points if value <= TOP]
    bottom = min([*shown, 0.0]) - 0.05
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axvline(TRAINED_LENGTH, color="grey", linewidth=0.8, linestyle=":")
    axes.text(TRAINED_LENGTH, TOP, " trained length", va="top", color="grey", fontsize="small")
    labels = []
    for (name, points), (color, dashes) in zip(lines.items(), STYLES, strict=False):
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.8)
        labels.append((min(y[-1], TOP), name if y[-1] <= TOP else f"{name} ({y[-1]:+.1f})", color))
    for height, (_, label, color) in zip(
        _apart([height for height, *_ in labels], bottom), sorted(labels), strict=True
    ):
        axes.annotate(label, (LENGTH, height), xytext=(4, 0), textcoords="offset points", color=color, va="center")
    axes.set(xlim=(0, LENGTH), ylim=(bottom, TOP), xlabel="tokens before the one that is predicted")
    axes.set(ylabel=f"NLL above {study.baseline} (nats per token),\nwhich is the original up to 8,192")
    axes.set_xticks(range(0, LENGTH + 1, 2048), [f"{place:,}" for place in range(0, LENGTH + 1, 2048)])
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "alibi"}):  # the same bytes from the same records
        figure.savefig(path, metadata=metadata, dpi=150)
    return True


def _line(study: Study, arm: str) -> list[tuple[float, float]]:
    found = ((start, study.difference(arm, study.baseline, start, start + STEP)) for start in range(0, LENGTH, STEP))
    return [(start + STEP / 2, each.mean) for start, each in found if each is not None]


def _apart(heights: Sequence[float], bottom: float) -> list[float]:
    """The heights in ascending order, moved so far apart that labels can be read, and none above the picture."""
    gap = (TOP - bottom) / 22
    placed: list[float] = []
    for height in sorted(heights, reverse=True):
        placed.append(min(height, placed[-1] - gap) if placed else height)
    return placed[::-1]
