"""What results say, in words: read from intervals, and no better than the arms that need no conversion."""

import math

from pydantic import BaseModel

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.results import Contrast, Results, Row
from alibi_cli.evaluation.statistics import DEGRADES, IMPROVES, NO_CHANGE, verdict
from alibi_cli.evaluation.tables import NOTES, named, perplexity
from alibi_cli.names import short_names


class Finding(BaseModel):
    """What the figures say of one model: what it costs where the baseline was trained, what it is worth beyond, what length does to it."""

    model: str
    says: list[str]


class Verdict(BaseModel):
    """headline: the answer in one sentence. findings: of every model that is no baseline."""

    headline: str
    findings: list[Finding]


def in_words(results: Results) -> Verdict:
    """What comparable results say."""
    baselines = {each.baseline for each in results.contrasts if each.model != each.baseline}
    others = [model.name for model in results.models if model.name not in baselines]
    found = [Finding(model=name, says=of_model(results, name)) for name in others]
    return Verdict(headline=_Sentences(results).headline(), findings=[each for each in found if each.says])


def of_model(results: Results, model: str) -> list[str]:
    """The sentences of a `Finding`."""
    sentences = _Sentences(results)
    said = (sentences.without(model), sentences.within(model), sentences.beyond(model), sentences.by_length(model))
    return [found for found in said if found]


class _Sentences:
    def __init__(self, results: Results):
        self.labels = short_names(model.name for model in results.models)
        self.trained = {model.name: model.trained_length for model in results.models}
        self.contrasts = results.contrasts
        self.rows = {row.key: row for row in results.rows if row.status == "ok"}
        self.missing = [row for row in results.rows if row.status != "ok"]

    def headline(self) -> str:
        """What can be had at the longest length, against each baseline and its arms; without any, which model is best there."""
        baselines = dict.fromkeys(each.baseline for each in self.contrasts if each.model != each.baseline)
        return " ".join(map(self._against_all_of, baselines)) or self._best()

    def _best(self) -> str:
        rows = [row for row in self.rows.values() if row.arm == FULL]
        if not rows:
            return "No model has a figure."
        longest = max(row.length for row in rows)
        best = min((row for row in rows if row.length == longest), key=lambda row: row.nll or math.inf)
        has = "has the lowest perplexity," if len({row.model for row in rows}) > 1 else "has a perplexity of"
        return f"At {longest:,} tokens {self.labels[best.model]} {has} {self._figure(best)}."

    def _against_all_of(self, baseline: str) -> str:
        found = [each for each in self.contrasts if each.baseline == baseline != each.model]
        longest = max(each.length for each in found)
        found = [each for each in found if each.length == longest]
        if all(each.ci95 is None for each in found):
            return f"At {longest:,} tokens nothing is told apart: differences on one document have no interval."
        words: dict[str, set[str]] = {}
        for each in found:
            words.setdefault(each.model, set()).add(self._word(each))
        winners = [model for model, said in words.items() if said == {IMPROVES}]
        level = [model for model, said in words.items() if said != {IMPROVES} and DEGRADES not in said]
        hardest = max(found, key=lambda each: each.delta_nll)
        best_baseline = self._name(baseline, hardest.baseline_arm)
        if winners:
            arms = len({each.baseline_arm for each in found}) > 1
            what = f"{self.labels[baseline]} and all its arms" if arms else best_baseline
            verb = "beats" if len(winners) == 1 else "beat"
            return f"At {longest:,} tokens {_list(self.labels, winners)} {verb} {what}."
        free = ", which needs no conversion" if hardest.baseline_arm != FULL else ""
        if level:
            return f"At {longest:,} tokens {_list(self.labels, level)} cannot be told from {best_baseline}{free}."
        nothing = (
            f"nothing here is as good as {best_baseline}"
            if len(words) > 1
            else f"{_list(self.labels, list(words))} is not as good as {best_baseline}"
        )
        return f"At {longest:,} tokens {nothing}{free}."

    def without(self, model: str) -> str:
        """At which lengths the model itself has no figure, and why."""
        lengths: dict[str, list[str]] = {}
        for row in self.missing:
            if (row.model, row.arm) == (model, FULL):
                lengths.setdefault(NOTES[row.status], []).append(f"{row.length:,}")
        return " ".join(f"At {_and(each)} tokens there is no figure: {why}." for why, each in lengths.items())

    def within(self, model: str) -> str:
        """Against the baseline itself, where that was trained."""
        found = [each for each in self.contrasts if each.model == model != each.baseline and each.baseline_arm == FULL]
        inside = [each for each in found if each.length <= (self.trained[each.baseline] or each.length)]
        if not inside:
            return ""
        each = max(inside, key=lambda each: each.length)
        where = f"At {each.length:,} tokens" + (", within the trained length," if self.trained[each.baseline] else "")
        word, baseline = self._word(each), self.labels[each.baseline]
        if word == NO_CHANGE:
            return f"{where} as good as {baseline}: no detectable change of perplexity, {self._figures(each)}."
        better = {IMPROVES: "better than", DEGRADES: "worse than"}.get(word, "compared with")
        return f"{where} {better} {baseline}: {self._against(each)}."

    def beyond(self, model: str) -> str:
        """Against the best that can be had without a conversion, at the longest length."""
        longest = max((each.length for each in self.contrasts if each.model == model != each.baseline), default=0)
        baselines = [
            each for each in self._baselines(model, longest) if longest > (self.trained[each.baseline] or longest)
        ]
        if not baselines:
            return ""
        hardest = max(baselines, key=lambda each: each.delta_nll)
        best_baseline = self._name(hardest.baseline, hardest.baseline_arm)
        best = "the best arm, " if len(baselines) > 1 and hardest.baseline_arm != FULL else ""
        how = {IMPROVES: "better than", DEGRADES: "worse than", NO_CHANGE: "no better than"}
        return f"At {longest:,} tokens {how.get(self._word(hardest), 'compared with')} {best}{best_baseline}: {self._against(hardest)}."

    def by_length(self, model: str) -> str:
        """Against itself at the shortest length."""
        found = [each for each in self.contrasts if each.model == model == each.baseline]
        if not found:
            return ""
        each = max(found, key=lambda each: each.length)
        word, span = verdict(each.ci95, IMPROVES), f"From {each.baseline_length:,} to {each.length:,} tokens perplexity"
        now, before = (perplexity(self.rows[key].perplexity or math.nan) for key in each.key)
        how = {IMPROVES: "falls", DEGRADES: "rises", NO_CHANGE: "does not change detectably,"}.get(word, "goes")
        told = "" if word == NO_CHANGE else f": {each.verdict}"
        return f"{span} {how} from {before} to {now}{told}."

    def _baselines(self, model: str, length: int) -> list[Contrast]:
        """The paired differences from a baseline and its arms at a length."""
        return [each for each in self.contrasts if each.model == model != each.baseline and each.length == length]

    def _word(self, each: Contrast) -> str:
        return verdict(each.ci95, IMPROVES)

    def _against(self, each: Contrast) -> str:
        """perplexity 2.899 against 2.885, +0.5 % (95 % interval +0.1 to +0.8 %)"""
        return f"perplexity {self._figures(each)}, {_change(each)}"

    def _figures(self, each: Contrast) -> str:
        own, other = (perplexity(self.rows[key].perplexity or math.nan) for key in each.key)
        return f"{own} against {other}"

    def _figure(self, row: Row) -> str:
        ends = row.perplexity_ci95
        interval = "" if ends is None else " (95 % interval {} to {})".format(*map(perplexity, ends))
        return f"{perplexity(row.perplexity or math.nan)}{interval}"

    def _name(self, model: str, arm: str) -> str:
        return named(self.labels, model, arm)


def _list(labels: dict[str, str], models: list[str]) -> str:
    return _and([labels[model] for model in models])


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _change(each: Contrast) -> str:
    """A difference in nats as a change of perplexity, with its interval."""
    deltas = [each.delta_nll, *(each.ci95 or ())]
    if abs(each.delta_nll) < math.log(2):
        figures, unit = [f"{100 * math.expm1(delta):+.1f}" for delta in deltas], " %"
    else:
        sign = 1 if each.delta_nll > 0 else -1
        figures = [
            f"{math.exp(min(sign * delta, 700)):,.1f}"
            for delta in deltas[:1] + sorted(deltas[1:], key=lambda d: sign * d)
        ]
        unit = " times as high" if sign > 0 else " times lower"
    interval = f" (95 % interval {figures[1]} to {figures[2]})" if each.ci95 is not None else ""
    return f"{figures[0]}{unit}{interval}"
