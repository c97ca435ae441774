"""Does the recipe hold on a model that had no part in finding it? Rotation kept, reach, on demo-llama and on a Llama of another shape.

    python -m benchmarks.healing.other

The other Llama (scripts/train_demo.py) has fewer and wider layers, key-value heads that are not shared, a trained length of 256 and
another order of its text; it is trained if build/other-llama is not there, which takes half an hour on one core. Both are converted by the
same command line and compared with their originals at 1, 2, 4 and 8 trained lengths, on text that neither training nor calibration saw:
with the original as it is at the trained length, with the original fed its last tokens beyond. Figures go to benchmarks/healing/other.json.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import alibi_cli as alibi

HERE, WORK = Path(__file__).parent, Path("build/healing")
OTHER = Path("build/other-llama")
TRAIN = ("other-llama", "--steps", "2000", "--batch-size", "16", "--seed", "777", "--output", str(OTHER))
FACTORS = (1, 2, 4, 8)
SEGMENTS, TARGETS = 64, 128


def main() -> None:
    if not (OTHER / "training_log.json").is_file():
        subprocess.run([sys.executable, "scripts/train_demo.py", *TRAIN], check=True)
    found = {"demo-llama": measured("demo-llama", 512), "other-llama": measured(str(OTHER), 256)}
    (HERE / "other.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, figures in found.items():
        for row in figures["differences"]:
            low, high = row["ci95"]
            print(f"{name:12} {row['length']:5}  {row['delta_nll']:+.4f} [{low:+.4f}, {high:+.4f}]")


def measured(original: str, trained: int) -> dict[str, Any]:
    """Differences of NLL in nats per token, converted minus original."""
    kept = WORK / f"{Path(original).name}-reach"
    report = alibi.convert(original, kept, policy="add", slopes="calibrated", force=True)
    lengths = [trained * factor for factor in FACTORS]
    results = alibi.evaluate(
        [str(kept)], baseline=original, lengths=lengths, max_segments=SEGMENTS, targets=TARGETS, arms="truncated"
    )
    pairs = [
        each
        for each in results.contrasts
        if each.baseline == original
        and each.model == str(kept)
        and each.baseline_arm == ("full" if each.length == trained else "truncated")
    ]
    assert report.calibration is not None
    return {
        "trained_length": trained,
        "calibration": {name: report.calibration[name] for name in ("method", "tokens")},
        "tokens_scored": results.rows[0].tokens_scored,
        "documents_scored": results.rows[0].documents_scored,
        "versions": results.versions,
        "differences": [
            {
                "length": each.length,
                "delta_nll": round(each.delta_nll, 5),
                "ci95": [round(v, 5) for v in each.ci95 or ()],
            }
            for each in pairs
        ],
    }


if __name__ == "__main__":
    main()
