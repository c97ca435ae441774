"""The arms of the comparison: which checkpoints are made, by which commands, and in which order."""

from dataclasses import dataclass

MODELS = {"gpt2": "demo-gpt2", "llama": "demo-llama"}
PRETRAINING_TOKENS = 20_480_000  # 5000 steps of 8 x 512, see presets/*/training_log.json
CALIBRATION_TOKENS = PRETRAINING_TOKENS // 100
METHODS = ("look-back", "distil", "distil+norms")
BUDGETS = (5, 1, 10)  # % of the pre-training tokens; in the order in which they are run
LONG = 30  # %: of what served best at 10 %, one seed, with the control of the GPT-2
SEEDS = (0, 1)
# What suits each model, from a few trials on one seed. Hidden states must not be taught where they hold absolute positions: a GPT-2 that
# was healed with them was worse beyond its trained length. The Llama starts farther away, and needs many steps.
RECIPES = {
    "gpt2": ("--learning-rate", "1e-3", "--batch-tokens", "2048"),
    "llama": ("--learning-rate", "3e-3", "--batch-tokens", "512"),
}
TEACHERS = {"gpt2": ("--teacher", "demo-gpt2"), "llama": ("--teacher", "demo-llama", "--hidden-weight", "8")}
# From 10 % on the text is worth more beside the teacher, who knows no more than the original. The Llama takes what else has helped it.
BALANCED = {
    "gpt2": ("--learning-rate", "1e-3", "--batch-tokens", "1024", "--kd-weight", "0.5"),
    "llama": (
        *("--learning-rate", "2e-3", "--batch-tokens", "256", "--length", "256"),
        *("--kd-weight", "0.5", "--train-slopes"),
    ),
}
# An original that is trained on at the rates above gets worse at first; the control has a rate that suits it and its budget.
CONTROL = ("--learning-rate", "3e-4", "--batch-tokens", "2048")
LONG_CONTROL = ("--learning-rate", "1e-3", "--batch-tokens", "1024")
TRAINED_LENGTH = 512
LENGTHS = tuple(TRAINED_LENGTH * factor for factor in (1, 2, 4, 8))
ROPE_REMEDIES = ("linear", "yarn")
KEPT = ("reach", "distil")  # with the rotation kept
# Little is left to heal, and too high a rate or no teacher costs more than the text gives (docs/decisions/007-training.md). Windows of two
# trained lengths, so that the weights get used to what the bias hides.
HEAL_KEPT = ("--learning-rate", "5e-4", "--batch-tokens", "2048", "--kd-weight", "0.5", "--teacher", "demo-llama")
KEPT_SCHEDULE = ("--length-schedule", "512:0.5,1024:0.5")


@dataclass(frozen=True)
class Arm:
    """name: also that of its record. needs: arm whose checkpoint it starts from. command: arguments of `alibi`, {start} and {output} to be
    filled in; empty for a stock checkpoint. rope: (type, factor) of a stock Llama whose rotation is stretched. lengths: evaluated."""

    name: str
    model: str
    command: tuple[str, ...] = ()
    needs: str | None = None
    rope: tuple[str, float] | None = None
    lengths: tuple[int, ...] = LENGTHS
    tokens: int = 0
    seed: int | None = None


def arms() -> list[Arm]:
    """All arms, the cheap and the decisive ones first."""
    found = [arm for model in MODELS for arm in _without_training(model)]
    for seed in SEEDS:
        for budget in BUDGETS:
            found += [arm for model in MODELS for arm in _trained(model, budget, seed)]
    found += [_balanced(model, LONG, SEEDS[0]) for model in MODELS]
    return [*found, _control("gpt2", LONG, SEEDS[0])]


def _without_training(model: str) -> list[Arm]:
    convert = ("convert", "{start}", "-o", "{output}", "--max-sequence-length", str(LENGTHS[-1]))
    found = [Arm(f"{model}-original", model), Arm(f"{model}-press", model, convert)]
    for method in METHODS:
        options = ("--slopes", "calibrated", "--calibrate", method, "--calibration-tokens", str(CALIBRATION_TOKENS))
        tokens = 0 if method == "look-back" else CALIBRATION_TOKENS
        found.append(Arm(f"{model}-{method}", model, (*convert, *options), tokens=tokens))
    if model == "llama":
        for method in KEPT:
            options = ("--policy", "add", "--slopes", "calibrated", "--calibrate", method)
            found.append(Arm(f"llama-kept-{method}", model, (*convert, *options)))
        for seed in SEEDS:
            heal = (*_train(BUDGETS[0], seed), *HEAL_KEPT, *KEPT_SCHEDULE)
            name = f"llama-kept-healed-{BUDGETS[0]}pct-seed{seed}"
            tokens = PRETRAINING_TOKENS * BUDGETS[0] // 100
            found.append(Arm(name, model, heal, "llama-kept-reach", tokens=tokens, seed=seed))
        for kind in ROPE_REMEDIES:
            for length in LENGTHS[1:]:
                factor = length / TRAINED_LENGTH
                found.append(Arm(f"llama-rope-{kind}-{length}", model, rope=(kind, factor), lengths=(length,)))
    return found


def _trained(model: str, budget: int, seed: int) -> list[Arm]:
    """From calibrated slopes and Press's, with teacher and without, with slopes that train, a balanced loss, and the unconverted model."""
    tokens, heal = PRETRAINING_TOKENS * budget // 100, (*_train(budget, seed), *RECIPES[model])
    found = []
    for start, source in (("calibrated", f"{model}-distil+norms"), ("press", f"{model}-press")):
        for how, options in (("teacher", TEACHERS[model]), ("text", ())):
            name = f"{model}-{start}-{how}-{budget}pct-seed{seed}"
            found.append(Arm(name, model, (*heal, *options), source, tokens=tokens, seed=seed))
    if budget == BUDGETS[0]:
        name = f"{model}-calibrated-teacher+slopes-{budget}pct-seed{seed}"
        options = (*TEACHERS[model], "--train-slopes")
        found.append(Arm(name, model, (*heal, *options), f"{model}-distil+norms", tokens=tokens, seed=seed))
    if budget == BUDGETS[-1]:
        found.append(_balanced(model, budget, seed))
    return [*found, _control(model, budget, seed)]


def _balanced(model: str, budget: int, seed: int) -> Arm:
    name = f"{model}-calibrated-half-teacher-{budget}pct-seed{seed}"
    command = (*_train(budget, seed), *BALANCED[model], *TEACHERS[model])
    tokens = PRETRAINING_TOKENS * budget // 100
    return Arm(name, model, command, f"{model}-distil+norms", tokens=tokens, seed=seed)


def _control(model: str, budget: int, seed: int) -> Arm:
    name = f"{model}-control-{budget}pct-seed{seed}"
    tokens = PRETRAINING_TOKENS * budget // 100
    command = (*_train(budget, seed), *(LONG_CONTROL if budget == LONG else CONTROL))
    return Arm(name, model, command, f"{model}-original", tokens=tokens, seed=seed)


def _train(budget: int, seed: int) -> tuple[str, ...]:
    tokens = PRETRAINING_TOKENS * budget // 100
    return ("train", "{start}", "-o", "{output}", "--tokens", str(tokens), "--seed", str(seed))
