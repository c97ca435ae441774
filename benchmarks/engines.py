"""Exported checkpoints in llama.cpp against transformers: the tables of docs/engines.md.

    make engines                                                   # makes build/engines
    build/engines/bin/python -m benchmarks.engines families demonstrations
    build/engines/bin/python -m benchmarks.engines real --model build/real_model/SmolLM2-135M-Instruct
    build/engines/bin/python -m benchmarks.engines --page docs/engines.md

Each part is kept in benchmarks/engines.json and printed as Markdown; --page puts all parts into the page. The calibrations of the
demonstrations, ten minutes on two cores, are kept in build/engines-checkpoints.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alibi_cli.conversion.convert import convert
from alibi_cli.engines.llama_cpp import running
from alibi_cli.evaluation.evaluate import evaluate
from alibi_cli.exporting.architectures import FAMILIES
from alibi_cli.exporting.export import export, run_export
from alibi_cli.exporting.verification import expected, sample_of
from alibi_cli.files.strict_json import read_json
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_tokenizer
from alibi_cli.settings.files_for_engines import ExportSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.silence import silence_libraries

RECORD, CHECKPOINTS = Path("benchmarks/engines.json"), Path("build/engines-checkpoints")
PARTS = ("families", "demonstrations", "real")
EXACT_GELU = ("gpt_neox", "mpt", "biogpt", "xglm")
Figures = dict[str, Any]


def families() -> Iterator[Figures]:
    """A tiny random model of every family, with Press et al.'s slopes, random norms and biases, as f32."""
    from tests.exporting.helpers import MODELS, checkpoint

    for name, (family, changes) in MODELS.items():
        assert isinstance(changes, dict)
        with tempfile.TemporaryDirectory() as folder:
            made = checkpoint(Path(folder), family, changes)
            file = Path(folder) / "model.gguf"
            report = export(made, file, approximate=family in EXACT_GELU)
            found = report.verified
            assert found is not None and found.by.startswith("llama.cpp"), "run this with build/engines/bin/python"
            yield {
                "model": name,
                "architecture": report.architecture,
                "max": found.max_abs_logprob_difference,
                "mean": found.mean_abs_logprob_difference,
                "default": _by_default(file, made),
                "note": ", ".join(report.approximations),
            }


def _by_default(file: Path, folder: Path) -> float:
    """Largest difference with llama.cpp's own choices: flash attention, a cache of float16."""
    info = describe(str(folder))
    length = int(read_json(folder / "config.json")["alibi_max_sequence_length"])
    ids = sample_of(load_tokenizer(info), length)
    with running(file, len(ids), exact=False) as engine:
        return float(np.abs(np.array(engine.log_probabilities(ids)) - expected(info, ids)).max())


def demonstrations() -> Iterator[Figures]:
    """Both demonstration models, with Press et al.'s slopes in their order and with calibrated slopes on Press et al.'s grid."""
    for demo in ("demo-gpt2", "demo-llama"):
        for slopes in ("press", "grid"):
            yield from _exported(demo, slopes, ("f32", "q8_0"), (512, 2048), 64)


def real(model: str) -> Iterator[Figures]:
    """A pretrained model with Press et al.'s slopes."""
    yield from _exported(model, "press", ("f32", "bf16", "q8_0"), (512, 1024), 32)


def _exported(
    source: str, slopes: str, dtypes: tuple[str, ...], lengths: tuple[int, ...], targets: int
) -> Iterator[Figures]:
    folder = _converted(source, slopes)
    kl = (read_json(folder / "alibi.json")["calibration"] or {}).get("kl_nats_per_token")
    for dtype in dtypes:
        file = CHECKPOINTS / f"{folder.name}-{dtype}.gguf"
        report = run_export(
            settings_of(ExportSettings, {"folder": folder, "output": file, "dtype": dtype, "force": True})
        )
        found = report.verified
        assert found is not None
        started, names = time.monotonic(), [str(file), str(folder)]
        rows = evaluate([names[0]], baseline=names[1], lengths=lengths, targets=targets, max_segments=4).rows
        yield {
            "model": f"{Path(source).name}, {slopes}",
            "architecture": report.architecture,
            "type": dtype,
            "bytes": report.bytes_written,
            "max": found.max_abs_logprob_difference,
            "mean": found.mean_abs_logprob_difference,
            "perplexities": {
                str(length): [
                    next(r.perplexity for r in rows if r.model == name and r.length == length) for name in names
                ]
                for length in lengths
            },
            "tokens": next(row.tokens_scored for row in rows),
            "seconds": {
                engine: round(sum(row.seconds or 0 for row in rows if row.model == name), 1)
                for engine, name in zip(("llama.cpp", "transformers"), names, strict=True)
            },
            "wall": round(time.monotonic() - started, 1),
            "max_bias": report.max_bias,
            "kl": kl,
        }


def _converted(source: str, slopes: str) -> Path:
    folder = CHECKPOINTS / f"{Path(source).name}-{slopes}"
    if folder.is_dir():
        return folder
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    calibrated: dict[str, Any] = {"slopes": "calibrated", "grid": "press", "calibration_tokens": 1 << 16}
    convert(source, folder, **(calibrated if slopes == "grid" else {}))
    return folder


def tables(record: dict[str, list[Figures]]) -> dict[str, str]:
    """{part: Markdown}"""
    made: dict[str, str] = {}
    if tiny := [r for r in record.get("families", []) if r["model"] in FAMILIES]:
        columns = ["model", "architecture", "at most", "on average", "llama.cpp's defaults, at most", "approximated"]
        made["families"] = markdown(
            columns,
            [
                [r["model"], r["architecture"], f"{r['max']:.1e}", f"{r['mean']:.1e}", f"{r['default']:.1e}", r["note"]]
                for r in tiny
            ],
        )
    for part in ("demonstrations", "real"):
        if rows := record.get(part):
            lengths = list(rows[0]["perplexities"])
            columns = [
                "model",
                "type",
                "MB",
                "at most",
                "on average",
                *(f"perplexity at {n}" for n in lengths),
                "seconds",
            ]
            made[part] = markdown(columns, [_row(r, lengths) for r in rows])
    if rows := [r for r in record.get("demonstrations", []) if r["kl"] and r["type"] == "f32"]:
        columns = ["model", "Press et al.'s order", "free slopes", "on the grid", "max_bias"]
        made["grid"] = markdown(
            columns,
            [
                [
                    r["model"].partition(",")[0],
                    *(f"{r['kl'][key]:.3f}" for key in ("press", "end", "grid")),
                    f"{r['max_bias']:.3g}",
                ]
                for r in rows
            ],
        )
    return made


def _row(r: Figures, lengths: list[str]) -> list[str]:
    pairs = ["{:.3f} / {:.3f}".format(*r["perplexities"][length]) for length in lengths]
    seconds = " / ".join(f"{n:.0f}" for n in r["seconds"].values())
    return [r["model"], r["type"], f"{r['bytes'] / 1e6:.1f}", f"{r['max']:.1e}", f"{r['mean']:.1e}", *pairs, seconds]


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def put_into_page(page: Path, part: str, table: str) -> None:
    """Replaces what stands between the comments <!-- part --> and <!-- end -->."""
    begin, rest = page.read_text(encoding="utf-8").split(f"<!-- {part} -->\n")
    page.write_text(
        f"{begin}<!-- {part} -->\n{table}\n<!-- end -->{rest.partition('<!-- end -->')[2]}", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", default="build/real_model/SmolLM2-135M-Instruct", help="for the part `real`")
    parser.add_argument("--page", type=Path, help="a Markdown file whose tables are to be replaced")
    options = parser.parse_args()
    silence_libraries()
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    for part in options.parts:
        found: list[Figures] = []
        for figures in (
            real(options.model) if part == "real" else {"families": families, "demonstrations": demonstrations}[part]()
        ):
            print(json.dumps(figures), flush=True)
            found.append(figures)
        record[part] = found
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for part, table in tables(record).items():
        print(f"\n{part}\n\n{table}")
        if options.page is not None:
            put_into_page(options.page, part, table)


if __name__ == "__main__":
    main()
