"""What a benchmark says: one claim per line, ours against its baseline in the same run, with the target it has to meet.

A benchmark is a module in this folder with a function `measure(short: bool) -> Iterator[Claim]`; `python -m benchmarks` finds them.
"""

import os
import platform
import re
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, computed_field, model_validator

BEGIN, END = "<!-- speed: begin (python -m benchmarks --page) -->", "<!-- speed: end -->"
COLUMNS = ("claim", "against", "ours", "baseline", "ratio", "target")
# The page shows these of all claims: {(claim, against): (what, baseline) in a reader's words}.
PLAIN = "causal, no bias"
SHOWN = {
    ("attention, 2048 tokens, demo-llama, look-back slopes", PLAIN): (
        "attention, 2,048 tokens, calibrated slopes",
        "causal, no bias",
    ),
    ("attention, 4096 tokens, normal", PLAIN): ("attention, 4,096 tokens", "causal, no bias"),
    ("attention, 32768 tokens, normal", PLAIN): ("attention, 32,768 tokens", "causal, no bias"),
    ("attention, 4096 tokens, normal", "materialised bias"): ("attention, 4,096 tokens", "the bias as a tensor"),
    ("convert 0.5 GB, verified", "cp -r"): ("convert and verify 0.5 GB", "`cp -r`"),
    ("convert 2 GB, verified", "cp -r"): ("convert and verify 2 GB", "`cp -r`"),
    ("convert 2 GB, not verified", "cp -r"): ("convert 2 GB, `--no-verify`", "`cp -r`"),
    ("convert 2 GB, verified", "load, change, save"): ("convert and verify 2 GB", "load, change, save"),
    ("scoring, 1024 tokens, gpt2-small", "harness"): (
        "score 1,000 tokens in windows of 1,024",
        "lm-evaluation-harness",
    ),
    ("scoring, 8192 tokens, gpt2-small", "harness"): (
        "score 1,000 tokens in windows of 8,192",
        "lm-evaluation-harness",
    ),
    ("peak memory of scoring, 8192 tokens, gpt2-small", "harness"): (
        "peak memory of the same",
        "lm-evaluation-harness",
    ),
    ("alibi --help", "import typer, rich"): ("`alibi --help`", "`import typer, rich`"),
}

POLICIES = ("replace", "add, 4 sinks")  # of whole models: the least and the most that conversion adds


class Claim(BaseModel):
    """Met if ours / baseline is at most `target`. Both are in `unit` and of this run; the baseline of an error is what is allowed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    claim: str
    against: str
    unit: str
    ours: float
    baseline: float
    target: float

    @model_validator(mode="before")
    @classmethod
    def _without_computed(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name not in ("ratio", "met")}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float:
        return self.ours / self.baseline

    @computed_field  # type: ignore[prop-decorator]
    @property
    def met(self) -> bool:
        return self.ratio <= self.target


class Results(BaseModel):
    """The file that `python -m benchmarks` writes: schema_version, the machine, threads and claims of each benchmark."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    machine: dict[str, str | int]
    threads: dict[str, int] = {}
    claims: dict[str, list[Claim]]


def machine() -> dict[str, str | int]:
    """What the figures depend on, beside the code."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 0,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def rows(claims: Sequence[Claim]) -> list[tuple[str, ...]]:
    """claim, against, ours, baseline, ratio, target, verdict"""
    found: list[tuple[str, ...]] = []
    for claim in claims:
        ours, baseline = (f"{value:.4g} {claim.unit}".strip() for value in (claim.ours, claim.baseline))
        verdict = "met" if claim.met else "NOT MET"
        found.append((claim.claim, claim.against, ours, baseline, f"{claim.ratio:.3g}", f"{claim.target:.3g}", verdict))
    return found


def page(text: str, results: Results) -> str:
    """Markdown with other tables between its marks: the claims of `SHOWN`, in its order, and whole models."""
    threads = ", ".join(f"{n} ({', '.join(names)})" for n, names in _by_value(results.threads))
    facts = ", ".join(f"{name} {value}" for name, value in {**results.machine, "threads": threads}.items())
    measured = {(claim.claim, claim.against): claim for claims in results.claims.values() for claim in claims}
    lines = ["| what | alibi | baseline | | ratio |", "|---|---:|---|---:|---:|"]
    for key, (what, against) in SHOWN.items():
        if (claim := measured.get(key)) is not None:
            ours, theirs = (_rounded(value, claim.unit) for value in (claim.ours, claim.baseline))
            lines.append(f"| {what} | {ours} | {against} | {theirs} | {claim.ratio:.2f} |")
    before, rest = text.split(BEGIN)
    found = "\n".join([*lines, "", *of_models(results.claims.get("models", [])), f"Measured on: {facts}."])
    return f"{before}{BEGIN}\n\n{found}\n\n{END}{rest.split(END)[1]}"


def _by_value(threads: dict[str, int]) -> list[tuple[int, list[str]]]:
    return [(n, [name for name in threads if threads[name] == n]) for n in sorted(set(threads.values()))]


def of_models(claims: Sequence[Claim]) -> list[str]:
    """Lines of a Markdown table: the ratios of whole models, a column for each length; none without claims."""
    parts = [re.fullmatch(r"(.+), (\d+) tokens, policy (.+)", claim.claim) for claim in claims]
    ratios = {found.groups(): claim.ratio for found, claim in zip(parts, claims, strict=True) if found}
    ratios = {key: ratio for key, ratio in ratios.items() if key[2] in POLICIES}
    lengths = sorted({int(length) for _, length, _ in ratios})
    if not lengths:
        return []
    head = (
        "| time of a converted model, in that of its original | "
        + " | ".join(f"{length:,}" for length in lengths)
        + " |"
    )
    rows = [
        f"| {what}, {policy} | " + " | ".join(f"{ratios[what, str(length), policy]:.2f}" for length in lengths) + " |"
        for what, policy in dict.fromkeys((what, policy) for what, _, policy in ratios)
    ]
    return [head, "|---|" + "---:|" * len(lengths), *rows, ""]


def _rounded(value: float, unit: str) -> str:
    """Three figures: 0.0718 s, 2.76 s, 2,217 MB."""
    shown = f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
    return f"{shown} {unit.split(' per ', maxsplit=1)[0]}"


def table(claims: Sequence[Claim]) -> str:
    """One line per claim; plain text."""
    lines: list[tuple[str, ...]] = [(*COLUMNS, ""), *rows(claims)]
    widths = [max(len(row[column]) for row in lines) for column in range(7)]
    text = [
        c.ljust(w) if n < 2 or n == 6 else c.rjust(w)
        for row in lines
        for n, (c, w) in enumerate(zip(row, widths, strict=True))
    ]
    return "\n".join("  ".join(text[begin : begin + 7]).rstrip() for begin in range(0, len(text), 7))
