"""Tables and a figure from the records of the arms.

    python -m benchmarks.healing.report [--output docs/results.md]

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
    METHODS,
    MODELS,
    PRETRAINING_TOKENS,
    ROPE_REMEDIES,
    SEEDS,
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
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--figure", type=Path, default=Path("docs/healing.svg"))
    args = parser.parse_args()
    ladders = {model: Ladder(model) for model in MODELS}
    text = "\n\n".join(section(ladder) for ladder in ladders.values())
    page = args.output.read_text() if args.output.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    args.output.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    draw(ladders, args.figure)


def section(ladder: Ladder) -> str:
    """One model as Markdown."""
    model, original = ladder.model, ladder.records.get(f"{ladder.model}-original")
    if original is None:
        return f"### {MODELS[model]}\n\nNo records yet."
    row = next(r for r in original["rows"] if r["length"] == TRAINED_LENGTH)
    facts = f"{sum(row['counts']):,} scored tokens of {len(row['counts'])} documents, set {row['scored'][:12]}"
    lines = [
        f"### {MODELS[model]}",
        "",
        f"NLL in nats per token (one byte), fixed targets: {facts}.",
        "",
        f"| arm | tokens | seed | minutes | {' | '.join(map(str, LENGTHS))} | R at {TRAINED_LENGTH} | passkey |",
        "|---|---|---|---|" + "---|" * (len(LENGTHS) + 2),
    ]
    lines += [_row(ladder, name, kind) for name, kind in _order(ladder)]
    return "\n".join([*lines, "", *_differences(ladder)])


def _order(ladder: Ladder) -> list[tuple[str, str]]:
    model = ladder.model
    names = [(f"{model}-original", "full"), (f"{model}-original", "crop")]
    names += [(f"{model}-{name}", "full") for name in ("press", *METHODS)]
    trained = [name for name in ladder.records if "seed" in name]
    names += [
        (name, "full") for name in sorted(trained, key=lambda n: (n.rsplit("-", 2)[0], ladder.records[n]["tokens"], n))
    ]
    return [(name, kind) for name, kind in names if name in ladder.records] + [
        (f"llama-rope-{kind}", "rope")
        for kind in ROPE_REMEDIES
        if model == "llama" and f"llama-rope-{kind}-1024" in ladder.records
    ]


def _row(ladder: Ladder, name: str, kind: str) -> str:
    if kind == "rope":
        found = [None, *(ladder.at(f"{name}-{length}", length) for length in LENGTHS[1:])]
        record: dict[str, Any] = {"tokens": 0, "seed": None, "seconds_of_command": None, "passkey": []}
    else:
        found = [ladder.at(name, length, kind) for length in LENGTHS]
        record = ladder.records[name]
    nlls = " | ".join("–" if sums is None else f"{sums.mean:.4f}" for sums in found)
    share = ladder.recovered(name) if kind == "full" else None
    seconds = record["seconds_of_command"]
    if isinstance(record.get("training"), dict):  # a calibration, before the conversion
        seconds += record["training"]["seconds"]
    label = name.removeprefix(f"{ladder.model}-").rsplit("-seed", 1)[0]
    cells = [
        label + {"crop": f", cropped to {TRAINED_LENGTH}", "rope": ", factor length / 512"}.get(kind, ""),
        f"{100 * record['tokens'] / PRETRAINING_TOKENS:g} %" if record["tokens"] and kind == "full" else "0",
        "–" if record["seed"] is None else str(record["seed"]),
        "–" if seconds is None or kind == "crop" else f"{seconds / 60:.1f}",
        nlls,
        "–" if share is None else f"{share[0]:.1f} % [{share[1]:.1f}, {share[2]:.1f}]",
        "–" if kind == "crop" or not record["passkey"] else _passkey(record["passkey"]),
    ]
    return f"| {' | '.join(cells)} |"


def _passkey(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['accuracy']:.2f} at {row['length']}" for row in rows if row["accuracy"] is not None)


def _differences(ladder: Ladder) -> list[str]:
    """Paired differences of every healed arm: to the control on the same tokens, to the cropped original, and to itself at 1x."""
    model = ladder.model
    healed = [name for name, kind in _order(ladder) if kind == "full" and "seed" in name and "control" not in name]
    lines = [
        f"| healed arm | seed | against the control at {TRAINED_LENGTH} | against the original at {TRAINED_LENGTH} "
        f"| against the crop at {LENGTHS[1]} | against the crop at {LENGTHS[2]} | {LENGTHS[2]} against {TRAINED_LENGTH} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in healed:
        record = ladder.records[name]
        budget = 100 * record["tokens"] // PRETRAINING_TOKENS
        at = {length: ladder.at(name, length) for length in LENGTHS}
        control = ladder.at(f"{model}-control-{budget}pct-seed{record['seed']}", TRAINED_LENGTH)
        cells = [
            name.removeprefix(f"{model}-").rsplit("-seed", 1)[0],
            str(record["seed"]),
            ladder.difference(at[TRAINED_LENGTH], control),
            ladder.difference(at[TRAINED_LENGTH], ladder.at(f"{model}-original", TRAINED_LENGTH)),
            *(ladder.difference(at[length], ladder.at(f"{model}-original", length, "crop")) for length in LENGTHS[1:3]),
            ladder.difference(at[LENGTHS[2]], at[TRAINED_LENGTH]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return (
        ["Paired differences in nats per token with 95 % intervals; below nought is better.", "", *lines]
        if healed
        else []
    )


def draw(ladders: dict[str, Ladder], path: Path) -> None:
    """Left of each pair: NLL by length; right: recovered share by tokens."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2 * len(ladders)), layout="constrained")
    FigureCanvasSVG(figure)
    for (left, right), ladder in zip(figure.subplots(len(ladders), 2, squeeze=False), ladders.values(), strict=True):
        model = ladder.model
        for name, kind in _order(ladder):
            if kind == "rope" or ("seed" in name and not ("5pct-seed0" in name and "text" not in name)):
                continue
            points = [(length, sums.mean) for length in LENGTHS if (sums := ladder.at(name, length, kind)) is not None]
            label = name.removeprefix(f"{model}-") + (" (crop)" if kind == "crop" else "")
            left.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label) if points else None
        left.set(xscale="log", xlabel="length (tokens)", ylabel="NLL (nats per token)", title=MODELS[model])
        _ticks(left, LENGTHS)
        for start in (
            "calibrated-teacher",
            "calibrated-half-teacher",
            "calibrated-text",
            "press-teacher",
            "press-text",
        ):
            shares: dict[int, list[float]] = {}
            for name, record in ladder.records.items():
                if name.startswith(f"{model}-{start}-") and (share := ladder.recovered(name)) is not None:
                    shares.setdefault(record["tokens"], []).append(share[0])
            averages = sorted(
                (100 * tokens / PRETRAINING_TOKENS, float(np.mean(values))) for tokens, values in shares.items()
            )
            right.plot(*zip(*averages, strict=True), marker="o", label=start) if averages else None
        right.set(
            xscale="log",
            xlabel="% of the pre-training tokens",
            ylabel="recovered share R (%)",
            title=f"mean of up to {len(SEEDS)} seeds",
        )
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        _ticks(right, sorted((*BUDGETS, LONG)))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _ticks(axes: Any, places: Sequence[int]) -> None:
    """Of a logarithmic axis, these alone."""
    axes.set_xticks(places, [str(place) for place in places])
    axes.minorticks_off()


if __name__ == "__main__":
    main()
