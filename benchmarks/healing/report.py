"""Tables and a figure from the records of the arms.

    python -m benchmarks.healing.report [--output docs/results/replacing.md]

The recovered share of an arm is R = (NLL_surgery - NLL_arm) / (NLL_surgery - NLL_original) at the trained length, its interval the 2.5 and
97.5 % quantiles over 10,000 resamples of the documents, all three means taken from the same resample. Differences are paired the same way.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alibi_cli.evaluation.statistics import RESAMPLES, SEED, interval
from benchmarks.healing.arms import (
    BUDGETS,
    LENGTHS,
    LONG,
    MODELS,
    PRETRAINING_TOKENS,
    TRAINED_LENGTH,
)
from benchmarks.healing.run import record_of

BEGIN, END = "<!-- healing: begin (make heal-report) -->", "<!-- healing: end -->"


@dataclass(frozen=True)
class Sums:
    """Per document: sums of NLL and counts of tokens, of one arm at one length."""

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())


class Ladder:
    """All records of one model."""

    def __init__(self, model: str):
        self.model = model
        paths = sorted(record_of("x").parent.glob(f"{model}-*.json"))
        self.records: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in paths}
        scored = {row["scored"] for record in self.records.values() for row in record["rows"] if "scored" in row}
        if len(scored) > 1:
            raise SystemExit(f"The records of {model} are of {len(scored)} sets of tokens: make all of them again.")

    def at(self, arm: str, length: int, kind: str = "full") -> Sums | None:
        rows = self.records.get(arm, {}).get("rows", [])
        kinds = ("crop", "truncated") if kind == "crop" else (kind,)  # records of 0.1.0 have the first word
        row = next((r for r in rows if r["length"] == length and r["arm"] in kinds and r["status"] == "ok"), None)
        return None if row is None else Sums(np.array(row["sums"]), np.array(row["counts"], dtype=float))

    def difference(self, ours: Sums | None, theirs: Sums | None) -> str:
        """Paired difference in nats per token with its 95 % interval."""
        if ours is None or theirs is None:
            return "–"
        low, high = interval(ours.sums - theirs.sums, ours.counts) or (float("nan"),) * 2
        return f"{ours.mean - theirs.mean:+.4f} [{low:+.4f}, {high:+.4f}]"

    def recovered(self, arm: str) -> tuple[float, float, float] | None:
        """(R, low, high) in per cent."""
        original, surgery = (self.at(f"{self.model}-{name}", TRAINED_LENGTH) for name in ("original", "press"))
        ours = self.at(arm, TRAINED_LENGTH)
        if original is None or surgery is None or ours is None:
            return None
        drawn = np.random.default_rng(SEED).integers(len(ours.sums), size=(RESAMPLES, len(ours.sums)))
        means = [part.sums[drawn].sum(1) / part.counts[drawn].sum(1) for part in (surgery, ours, original)]
        low, high = np.quantile((means[0] - means[1]) / (means[0] - means[2]), [0.025, 0.975])
        return 100 * (surgery.mean - ours.mean) / (surgery.mean - original.mean), 100 * low, 100 * high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results/replacing.md"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/healing.svg"))
    args = parser.parse_args()
    ladders = {model: Ladder(model) for model in MODELS}
    text = "\n\n".join(section(ladder) for ladder in ladders.values())
    page = args.output.read_text() if args.output.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    args.output.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    draw(ladders, args.figure)


# Of all records, the ten of a model that teach most: {name without model and seed: label in the table}, and those of one model alone.
SHOWN = {
    "original": "original",
    "press": "Press's slopes",
    "distil": "calibrated, distil",
    "distil+norms": "calibrated, distil+norms",
    "calibrated-teacher-1pct": "calibrated and healed, 1 %",
    "calibrated-teacher-5pct": "calibrated and healed, 5 %",
    "calibrated-half-teacher-10pct": "calibrated and healed, 10 %, half from text",
    "calibrated-half-teacher-30pct": "calibrated and healed, 30 %, half from text",
    "press-teacher-5pct": "Press's slopes, healed, 5 %",
    "control-10pct": "control: the original trained on, 10 %",
    "kept-reach": "rotation kept, reach",
    "kept-healed-5pct": "rotation kept, reach, healed, 5 %",
}
LEFT_OUT = {"gpt2": (), "llama": ("distil+norms", "calibrated-teacher-1pct")}


def section(ladder: Ladder) -> str:
    """One model as Markdown."""
    model, original = ladder.model, ladder.records.get(f"{ladder.model}-original")
    if original is None:
        return f"### {MODELS[model]}\n\nNo records yet."
    row = next(r for r in original["rows"] if r["length"] == TRAINED_LENGTH)
    facts = f"{sum(row['counts']):,} scored tokens of {len(row['counts'])} documents, set {row['scored'][:12]}"
    far = LENGTHS[2]
    lines = [
        f"### {MODELS[model]}",
        "",
        f"NLL in nats per token (one byte), means over seeds, fixed targets: {facts}. The last column is the paired difference to the "
        f"original fed its last {TRAINED_LENGTH} tokens, with its 95 % interval over documents; below zero is better.",
        "",
        f"| arm | tokens | seeds | {TRAINED_LENGTH:,} | {far:,} | {LENGTHS[3]:,} | R at {TRAINED_LENGTH} | {far:,} against truncated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = {name: label for name, label in SHOWN.items() if name not in LEFT_OUT[model]}
    lines += [_row(ladder, label, names) for name, label in shown.items() if (names := _seeds(ladder, name))]
    return "\n".join(lines)


def _seeds(ladder: Ladder, name: str) -> list[str]:
    """Records of an arm: one, or one for each seed."""
    full = f"{ladder.model}-{name}"
    return [full] if full in ladder.records else sorted(n for n in ladder.records if n.rsplit("-seed", 1)[0] == full)


def _row(ladder: Ladder, label: str, names: list[str]) -> str:
    far = LENGTHS[2]
    record = ladder.records[names[0]]
    nlls = [_mean([ladder.at(name, length) for name in names]) for length in (TRAINED_LENGTH, far, LENGTHS[3])]
    shares = [share[0] for name in names if (share := ladder.recovered(name)) is not None]
    truncated = ladder.at(f"{ladder.model}-original", far, "crop")
    cells = [
        label,
        f"{100 * record['tokens'] / PRETRAINING_TOKENS:g} %" if record["tokens"] else "0",
        str(len(names)) if record["seed"] is not None else "–",
        *("–" if each is None else f"{each.mean:.4f}" for each in nlls),
        f"{np.mean(shares):.1f} %" if shares else "–",
        ladder.difference(nlls[1], truncated),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(found: Sequence[Sums | None]) -> Sums | None:
    """The mean over seeds, document by document."""
    there = [sums for sums in found if sums is not None]
    return Sums(np.mean([sums.sums for sums in there], axis=0), there[0].counts) if there else None


# Lines of the figure: {label: (name without model, budget and seed, colour of Okabe and Ito, dashes)}
LINES: dict[str, tuple[str, str, Any]] = {
    "calibrated, then healed": ("calibrated-teacher", "#0072B2", "-"),
    "the same, half from text": ("calibrated-half-teacher", "#009E73", "--"),
    "Press's slopes, then healed": ("press-teacher", "#D55E00", "-."),
}


def draw(ladders: dict[str, Ladder], path: Path) -> None:
    """Recovered share by tokens of training, a panel a model; the share that calibration alone recovers as a level."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(ladders), squeeze=False)[0]
    for axes, ladder in zip(panels, ladders.values(), strict=True):
        for label, (name, color, dashes) in LINES.items():
            shares: dict[float, list[float]] = {}
            for full, record in ladder.records.items():
                found = ladder.recovered(full) if full.startswith(f"{ladder.model}-{name}-") else None
                if found is not None:
                    shares.setdefault(100 * record["tokens"] / PRETRAINING_TOKENS, []).append(found[0])
            points = [(budget, float(np.mean(values))) for budget, values in sorted(shares.items())]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker="o", markersize=4, color=color, linestyle=dashes, label=label
                )
        if (alone := ladder.recovered(f"{ladder.model}-distil")) is not None:
            axes.axhline(alone[0], color="0.4", linewidth=1, linestyle=":", label="calibrated alone")
        axes.set(
            xscale="log", xlabel="training, % of the pre-training tokens", title=MODELS[ladder.model], ylim=(35, 105)
        )
        axes.set_xticks(places := sorted((*BUDGETS, LONG)), [str(place) for place in places])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("recovered share R (%)")
    panels[0].legend(fontsize="small", loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "alibi"}):  # the same bytes from the same records
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
