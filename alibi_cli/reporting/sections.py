"""Which models stand side by side: those whose figures are of the same tokens, whatever runs they come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from alibi_cli.errors import UsageError
from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.contrasts import contrasts, worded
from alibi_cli.evaluation.results import Contrast, ModelFacts, Results, Row, RowKey
from alibi_cli.names import short_names
from alibi_cli.reporting.verdict import Verdict, in_words

MEASURED = ("digest", "dtype", "attention", "engine", "tokenizer_sha256")  # one model, measured in one way


class Tokens(NamedTuple):
    """What has to be equal for two figures to be comparable. cut: of the text as a tokenizer cuts it."""

    text: str
    protocol: tuple[str, int | None, int | None, bool]
    cut: str
    scored: str | None


class Section(BaseModel):
    """Figures that are comparable. why: why they do not stand with those of another section; empty if there is none. runs: the files that
    they come from. results: of all of them together. verdict: what they say, in words."""

    why: str
    runs: list[str]
    results: Results
    verdict: Verdict


def make_sections(runs: Sequence[tuple[str, Results]], baseline: str | None = None) -> list[Section]:
    """
    Raises:
        UsageError: no run has the baseline.
    """
    if baseline is not None and all(model.name != baseline for _, run in runs for model in run.models):
        known = dict.fromkeys(model.name for _, run in runs for model in run.models)
        raise UsageError(f"`baseline`: no result is of {baseline}; there are {', '.join(known) or 'none'}.")
    baselines = _paths_of(baseline, runs)
    groups: dict[Tokens, list[tuple[str, Results]]] = {}
    for file, run in runs:
        for tokens, models in _by_tokens(run).items():
            groups.setdefault(tokens, []).append((file, _part(run, models)))
    first = next(iter(groups), None)
    sections = []
    for tokens, parts in groups.items():
        results = _together(parts, baselines)
        why = "" if tokens == first or first is None else _why(tokens, first, results, groups[first][0][1])
        sections.append(
            Section(
                why=why, runs=list(dict.fromkeys(file for file, _ in parts)), results=results, verdict=in_words(results)
            )
        )
    return sections


def _paths_of(name: str | None, runs: Sequence[tuple[str, Results]]) -> list[str]:
    """The names that runs have for the model that one of them names so; a checkpoint may lie at several paths."""
    models = [model for _, run in runs for model in run.models]
    named = [model for model in models if model.name == name]
    return list(dict.fromkeys([*(m.name for m in named), *(m.name for m in models if any(_same(m, n) for n in named))]))


def _by_tokens(run: Results) -> dict[Tokens, list[str]]:
    """The models of a run by their tokens. A model without any figure stands with those whose tokenizer cuts the text as its own does."""
    protocol = run.protocol
    asked = (protocol.name, protocol.targets, protocol.stride, protocol.masked)
    scored = {row.model: row.scored_set_sha256 for row in run.rows if row.scored_set_sha256 is not None}
    of_cut = {model.tokens_sha256: scored[model.name] for model in run.models if model.name in scored}
    found: dict[Tokens, list[str]] = {}
    for model in run.models:
        tokens = scored.get(model.name, of_cut.get(model.tokens_sha256))
        found.setdefault(Tokens(run.text.sha256, asked, model.tokens_sha256, tokens), []).append(model.name)
    return found


def _part(run: Results, models: list[str]) -> Results:
    """What a run says of some of its models."""
    chosen = run.model_copy(
        update={
            "models": [model for model in run.models if model.name in models],
            "rows": [row for row in run.rows if row.model in models],
            "contrasts": [each for each in run.contrasts if each.model in models and each.baseline in models],
        }
    )
    chosen._record = {key: scored for key, scored in run.record.items() if key.model in models}
    return chosen


def _together(parts: list[tuple[str, Results]], chosen: list[str]) -> Results:
    """One run out of several on the same tokens, with the paired differences between models of all of them. chosen: the names of the
    baseline, none for those of the runs."""
    whole = parts[0][1].model_copy(update={"models": [], "rows": [], "contrasts": []})
    whole._record = {}
    own: list[Contrast] = []
    for file, part in parts:
        names = _names(part, whole, file)
        whole.models += [
            model.model_copy(update={"name": names[model.name]})
            for model in part.models
            if names[model.name] not in {known.name for known in whole.models}
        ]
        present = {row.key for row in whole.rows}
        for row in part.rows:
            renamed = row.model_copy(update={"model": names[row.model]})
            if renamed.key not in present:
                whole.rows.append(renamed)
                if row.key in part.record:
                    whole.record[renamed.key] = part.record[row.key]
        own += [
            each.model_copy(update={"model": names[each.model], "baseline": names[each.baseline]})
            for each in part.contrasts
            if each.model != each.baseline or len(parts) == 1  # the shortest length may be another run's
        ]
    order = {model.name: index for index, model in enumerate(whole.models)}
    whole.rows.sort(key=lambda row: (order[row.model], row.length, row.arm != FULL))
    whole.contrasts = own
    baselines = list(dict.fromkeys(each.baseline for each in own if each.baseline != each.model))
    if chosen:
        whole.contrasts, baselines = [], [name for name in chosen if name in order][:1]
    found = {each.key: each for each in whole.contrasts}
    only = (
        baselines[0] if len(baselines) == 1 else None
    )  # of several, each model keeps the one that it was measured with
    found |= {each.key: each for each in contrasts(whole, only)}
    whole.contrasts = sorted(worded(list(found.values())), key=lambda each: (order[each.model], each.length))
    return whole


def _names(part: Results, whole: Results, file: str) -> dict[str, str]:
    """{name in a part: name in the whole}: that of the same model, which may lie at another path; another one if a different model, or
    other figures of the same, have it already."""
    figures = {row.key: row for row in whole.rows}
    known = {model.name: model for model in whole.models}
    taken = {*known, *(model.name for model in part.models)}
    found: dict[str, str] = {}
    for model in sorted(part.models, key=lambda model: model.name not in known):
        rows = [row for row in part.rows if row.model == model.name]
        free = [name for name in (model.name, *known) if name in known and name not in found.values()]
        same = (name for name in free if _same(known[name], model) and all(_agrees(row, name, figures) for row in rows))
        if (name := next(same, None)) is None:
            name = model.name if model.name not in known else f"{model.name} ({Path(file).stem})"
            while name in taken and name != model.name:
                name += "'"
            taken.add(name)
        found[model.name] = name
    return found


def _same(one: ModelFacts, other: ModelFacts) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in MEASURED)


def _agrees(row: Row, name: str, figures: dict[RowKey, Row]) -> bool:
    known = figures.get(row.key._replace(model=name))
    return known is None or (known.status, known.nll) == (row.status, row.nll)


def _why(tokens: Tokens, first: Tokens, results: Results, other: Results) -> str:
    """Why a section is not part of the first one."""
    who = ", ".join(short_names(model.name for model in results.models).values())
    if tokens.text != first.text:
        return (
            f"The figures of {who} are of another text, {results.text.name} (sha256 {tokens.text[:12]}) instead of {other.text.name} "
            f"({first.text[:12]}): perplexities of different texts cannot be compared."
        )
    if tokens.protocol != first.protocol:
        return (
            f"{who} was scored by another protocol, {_protocol(results)} instead of {_protocol(other)}: "
            "its tokens had other amounts of context."
        )
    if tokens.cut != first.cut:
        return (
            f"{who} reads the text with a tokenizer that cuts it into other tokens: perplexity per token cannot be compared, "
            "bits per byte can."
        )
    return f"Other tokens of the same text were scored for {who}, set {str(tokens.scored)[:12]} instead of {str(first.scored)[:12]}."


def _protocol(results: Results) -> str:
    protocol = results.protocol
    detail = {"fixed-target": f" with K={protocol.targets}", "sliding": f" with S={protocol.stride}"}
    kind = ", masked tokens" if protocol.masked else ""
    return f"{protocol.name}{detail.get(protocol.name, '')}{kind}"
