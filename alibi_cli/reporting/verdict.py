"""What results say, in words: read from intervals, and no better than the arms that need no conversion."""

import math

from alibi_cli.evaluation.arms import FULL
from alibi_cli.evaluation.results import Contrast, Results, Row
from alibi_cli.evaluation.statistics import DEGRADES, IMPROVES, NO_CHANGE, verdict
from alibi_cli.evaluation.tables import named
from alibi_cli.names import short_names


def in_words(results: Results) -> list[str]:
    """The answer first, then two or three sentences for each model that was compared or measured at several lengths."""
    baselines = {each.baseline for each in results.contrasts if each.model != each.baseline}
    others = [model.name for model in results.models if model.name not in baselines]
    found = [_Sentences(results).headline(), *(of_model(results, name) for name in others)]
    return [sentence for sentence in found if sentence]


def of_model(results: Results, model: str) -> str:
    """What it costs where the baseline was trained, what it is worth beyond, and what length does to it."""
    sentences = _Sentences(results)
    return " ".join(filter(None, [sentences.within(model), sentences.beyond(model), sentences.by_length(model)]))


class _Sentences:
    def __init__(self, results: Results):
        self.labels = short_names(model.name for model in results.models)
        self.trained = {model.name: model.trained_length for model in results.models}
        self.contrasts = results.contrasts
        self.rows = {row.key: row for row in results.rows if row.status == "ok"}

    def headline(self) -> str:
        compared = list(dict.fromkeys(each.model for each in self.contrasts if each.model != each.baseline))
        rows = [row for row in self.rows.values() if row.arm == FULL]
        if not rows:
            return "No model has a figure."
        if not compared:
            longest = max(row.length for row in rows)
            best = min((row for row in rows if row.length == longest), key=lambda row: row.nll or math.inf)
            lowest = "has the lowest perplexity" if len({row.model for row in rows}) > 1 else "has a perplexity of"
            figure = f"{lowest}, {self._figure(best)}" if "lowest" in lowest else f"{lowest} {self._figure(best)}"
            return f"At {longest:,} tokens {self.labels[best.model]} {figure}."
        longest = max(each.length for each in self.contrasts if each.model in compared and each.model != each.baseline)
        rivals = {model: self._rivals(model, longest) for model in compared}
        rivals = {model: found for model, found in rivals.items() if found}
        winners = [model for model, found in rivals.items() if all(self._word(each) == IMPROVES for each in found)]
        level = [m for m, found in rivals.items() if m not in winners and all(self._word(e) != DEGRADES for e in found)]
        hardest = max((each for found in rivals.values() for each in found), key=lambda each: each.delta_nll)
        others = {(each.baseline, each.baseline_arm) for found in rivals.values() for each in found}
        rival = self._name(hardest.baseline, hardest.baseline_arm)
        what = f"{rival} and its other arms" if len(others) > 1 else rival
        if winners:
            return f"At {longest:,} tokens {self._list(winners)} {self._verb(winners, 'beats', 'beat')} {what}."
        free = ", which needs no conversion" if hardest.baseline_arm != FULL else ""
        if level:
            return f"At {longest:,} tokens {self._list(level)} {self._verb(level, 'is', 'are')} no worse than {rival}{free}, and no better."
        return f"At {longest:,} tokens nothing here is as good as {rival}{free}."

    def within(self, model: str) -> str:
        """Against the baseline itself, where that was trained."""
        found = [each for each in self.contrasts if each.model == model != each.baseline and each.baseline_arm == FULL]
        inside = [each for each in found if each.length <= (self.trained[each.baseline] or each.length)]
        if not inside:
            return ""
        each = max(inside, key=lambda each: each.length)
        name, baseline = self.labels[model], self.labels[each.baseline]
        where = "within the trained length" if self.trained[each.baseline] else "without a limit of its own"
        word = self._word(each)
        if word == NO_CHANGE:
            return f"{name} is as good as {baseline} at {each.length:,} tokens, {where}: no detectable change."
        if word in (IMPROVES, DEGRADES):
            better = "better" if word == IMPROVES else "worse"
            return f"{name} is {better} than {baseline} at {each.length:,} tokens, {where}: {self._against(each)}."
        return f"{name} at {each.length:,} tokens, {where}: {self._against(each)}; {word}."

    def beyond(self, model: str) -> str:
        """Against the best that can be had without a conversion, at the longest length."""
        longest = max((each.length for each in self.contrasts if each.model == model != each.baseline), default=0)
        rivals = [each for each in self._rivals(model, longest) if longest > (self.trained[each.baseline] or longest)]
        if not rivals:
            return ""
        hardest = max(rivals, key=lambda each: each.delta_nll)
        rival = self._name(hardest.baseline, hardest.baseline_arm)
        best = "the best of its arms, " if len(rivals) > 1 and hardest.baseline_arm != FULL else ""
        how = {IMPROVES: "better than", DEGRADES: "worse than", NO_CHANGE: "no better than"}.get(self._word(hardest))
        if how is None:
            return ""
        return f"At {longest:,} tokens it is {how} {best}{rival}: {self._against(hardest)}."

    def by_length(self, model: str) -> str:
        found = [each for each in self.contrasts if each.model == model == each.baseline]
        if not found:
            return ""
        each, name = max(found, key=lambda each: each.length), self.labels[model]
        span = f"From {each.baseline_length:,} to {each.length:,} tokens"
        word = verdict(each.ci95, IMPROVES)
        if word == NO_CHANGE:
            return f"{span} the perplexity of {name} does not change detectably."
        if word not in (IMPROVES, DEGRADES):
            return ""
        verb = "falls" if word == IMPROVES else "rises"
        return f"{span} the perplexity of {name} {verb} {self._by(each)} ({each.verdict})."

    def _rivals(self, model: str, length: int) -> list[Contrast]:
        """The paired differences from a baseline and its arms at a length."""
        return [each for each in self.contrasts if each.model == model != each.baseline and each.length == length]

    def _word(self, each: Contrast) -> str:
        return verdict(each.ci95, IMPROVES)

    def _against(self, each: Contrast) -> str:
        """2.899 against 2.885, 0.5 % higher (95 % interval 0.1 % to 0.8 %)"""
        key = each.key
        own, other = self.rows[key[0]].perplexity or math.nan, self.rows[key[1]].perplexity or math.nan
        interval = "" if each.ci95 is None else f" (95 % interval {_change(each.ci95[0])} to {_change(each.ci95[1])})"
        return f"perplexity {_shown(own)} against {_shown(other)}, {_change(each.delta_nll)}{interval}"

    def _by(self, each: Contrast) -> str:
        key = each.key
        before, now = self.rows[key[1]].perplexity or math.nan, self.rows[key[0]].perplexity or math.nan
        return f"from {_shown(before)} to {_shown(now)}"

    def _figure(self, row: Row) -> str:
        interval = (
            "" if row.perplexity_ci95 is None else " (95 % interval {} to {})".format(*map(_shown, row.perplexity_ci95))
        )
        return f"{_shown(row.perplexity or math.nan)}{interval}"

    def _name(self, model: str, arm: str) -> str:
        return named(self.labels, model, arm)

    def _list(self, models: list[str]) -> str:
        names = [self.labels[model] for model in models]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

    def _verb(self, models: list[str], one: str, several: str) -> str:
        return one if len(models) == 1 else several


def _shown(perplexity: float) -> str:
    return f"{perplexity:,.3f}" if perplexity < 1000 else f"{perplexity:,.0f}"


def _change(delta: float) -> str:
    """A difference in nats as a change of perplexity."""
    ratio = math.exp(min(abs(delta), 700))
    if ratio >= 2:
        return f"{ratio:,.1f} times {'higher' if delta > 0 else 'lower'}" if ratio < 1e6 else "out of all proportion"
    return f"{100 * math.expm1(delta):+.1f} %"
