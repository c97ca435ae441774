"""Paired differences between rows, and what they say in words."""

import math

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.results import Contrast, Results, Row, RowKey
from alibi_cli.evaluation.statistics import DEGRADES, IMPROVES, LONGER_CONTEXT, Scored, difference, verdict

FAR = (
    0.1  # nats per token, 10 % of perplexity: a model whose whole interval is farther above its baseline gets no praise
)


def contrasts(results: Results, baseline: str | None, against: str | None = None) -> list[Contrast]:
    """Every model against itself at its shortest length, and against the baseline at the same length: the model and each of its arms, or
    the arm `against` alone. Where both have figures on the same tokens: models whose tokenizers cut the text differently are not compared.
    Known contrasts are not computed again.
    """
    known, record = {contrast.key: contrast for contrast in results.contrasts}, results.record
    tokens = {model.name: model.tokens_sha256 for model in results.models}
    done = {row.key: row for row in results.rows if row.status == "ok"}
    found = []
    for row in done.values():
        if row.arm != FULL:
            continue
        shortest = min((r for r in done.values() if (r.model, r.arm) == (row.model, FULL)), key=lambda r: r.length)
        others = [shortest] if shortest.length < row.length else []
        if baseline is not None and row.model != baseline and tokens[row.model] == tokens.get(baseline):
            others += _arms_at(results.rows, baseline, row.length, against)
        for other in others:
            if record[row.key].same_tokens(record[other.key]):
                found.append(known.get((row.key, other.key)) or _contrast(row, other, record))
    return worded(found)


def worded(found: list[Contrast]) -> list[Contrast]:
    """With verdicts, which depend on what stands beside them."""
    return [contrast.model_copy(update={"verdict": in_words(contrast, found)}) for contrast in found]


def _arms_at(rows: list[Row], baseline: str, length: int, against: str | None) -> list[Row]:
    """The baseline's rows of a length, or that of one arm, which has none of its own where it is the model itself."""
    found = [row for row in rows if (row.model, row.length) == (baseline, length)]
    if against is not None:
        found = [row for row in found if row.arm == against] or [row for row in found if row.arm == FULL]
    return [row for row in found if row.status == "ok"]


def _contrast(row: Row, reference: Row, record: dict[RowKey, Scored]) -> Contrast:
    delta, ci = difference(record[row.key], record[reference.key])
    return Contrast(
        model=row.model,
        baseline=reference.model,
        length=row.length,
        baseline_length=reference.length,
        baseline_arm=reference.arm,
        delta_nll=delta,
        perplexity_ratio=math.exp(min(delta, 700)),
        ci95=ci,
        verdict="",
    )


def in_words(contrast: Contrast, all_of_them: list[Contrast]) -> str:
    """The verdict, read from intervals.

    A model that gains by length, or improves on a baseline that has come to its end, may still be worse than what one has without
    converting anything: then it is told that too.
    """
    if contrast.baseline == contrast.model:
        word = verdict(contrast.ci95, LONGER_CONTEXT)
        above = _far_above(contrast, all_of_them) if word == LONGER_CONTEXT else None
        return word if above is None else f"improves with length, and is {above}"
    if contrast.baseline_arm != FULL:
        return _against_arm(contrast)
    word = verdict(contrast.ci95, IMPROVES)
    arms = [
        c for c in all_of_them if (c.model, c.length) == (contrast.model, contrast.length) and c.baseline_arm != FULL
    ]
    unbeaten = [c for c in arms if verdict(c.ci95, IMPROVES) != IMPROVES]
    if word == IMPROVES and unbeaten:
        return f"{IMPROVES}, but is {_against_arm(max(unbeaten, key=lambda c: c.delta_nll))}"
    return word


def _far_above(contrast: Contrast, all_of_them: list[Contrast]) -> str | None:
    """How far a model is above its baseline, if it is: at this length, or the longest one below at which the baseline has a figure."""
    others = [c for c in all_of_them if c.model == contrast.model != c.baseline and c.length <= contrast.length]
    best = max(others, key=lambda c: (c.length, c.delta_nll), default=None)
    if best is None or best.ci95 is None or best.ci95[0] <= FAR:
        return None
    arm = "" if best.baseline_arm == FULL else f" ({best.baseline_arm})"
    return f"{best.delta_nll:.2g} nats above its baseline{arm}" + (
        "" if best.length == contrast.length else f" at {best.length}"
    )


def _against_arm(contrast: Contrast) -> str:
    arm = contrast.baseline_arm
    word = verdict(contrast.ci95, IMPROVES)
    if contrast.ci95 is None:
        return word
    return {IMPROVES: f"better than {arm}", DEGRADES: f"worse than {arm}"}.get(word, f"no better than {arm}")
