"""Settings of evaluate and of the tasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from alibi_cli.errors import UsageError
from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.on_disk import check_models, check_plugins, check_texts, check_writable, plugins_installed
from alibi_cli.settings.presets import close_match
from alibi_cli.settings.shared import (
    LONGEST,
    Command,
    Dtype,
    Lengths,
    Plugin,
    Revision,
    SplitOn,
    TrustRemoteCode,
    checked_lengths,
    parse_names,
)

DEFAULT_MODEL = "demo-gpt2"
BUILT_IN = ("passkey", "listops")  # tasks, each in a file of evaluation/tasks that has its name
TASKS = set(BUILT_IN)  # and those that are registered later
ProtocolName = Literal["fixed-target", "non-overlapping", "sliding", "lm-eval"]

Models = Annotated[
    tuple[Any, ...],
    Setting(
        "Folders or Hub names. Default: the embedded demo-gpt2.", argument=True, metavar="[MODEL]...", preset=False
    ),
]
BatchSize = Annotated[
    int | None, Setting("Windows per batch. Default: by a budget of tokens.", minimum=1, maximum=LONGEST)
]
Output = Annotated[
    Path | None,
    Setting("Write results there, after every row.", metavar="FILE.json", preset=False, written=True),
]
Device = Annotated[
    str,
    Setting(
        "cpu, cuda, cuda:1, …; split: one model over all GPUs. auto: a GPU if there is one; split if the model needs it."
    ),
]
DtypeOfModel = Annotated[Dtype, Setting("auto: float32 on a CPU, the checkpoint's own elsewhere.")]


@dataclass(frozen=True, kw_only=True)
class OnModels(Verb):
    """What evaluations of either kind share. models: folders, Hub names, models in memory, or pairs of these and their tokenizers."""

    models: Models = (DEFAULT_MODEL,)
    lengths: Lengths = (512, 1024, 2048)
    batch_size: BatchSize = None
    output: Output = None
    device: Device = "auto"
    dtype: DtypeOfModel = "auto"
    revision: Revision = None
    tokenizer: Annotated[
        str | None,
        Setting(
            "A folder or Hub name whose tokenizer reads the text. Default: each model's own.",
            metavar="MODEL",
            preset=False,
        ),
    ] = None
    report_to: Annotated[
        tuple[str, ...],
        Setting(
            "Log a row for each length to tensorboard, wandb, …; repeatable.",
            metavar="NAME",
            preset=False,
            written=True,
        ),
    ] = ()
    plugin: Plugin = ()
    trust_remote_code: TrustRemoteCode = False
    command: Command = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", checked_lengths(self.lengths))

    def check(self) -> None:
        super().check()
        if not self.models:
            raise UsageError("`models` names none.")
        check_plugins(self.plugin)
        check_models(self.named, self.revision)
        if self.tokenizer is not None:
            check_models([self.tokenizer])

    @property
    def named(self) -> tuple[Any, ...]:
        """All models."""
        return self.models

    def check_output(self) -> None:
        super().check_output()
        if self.output is not None:
            if self.output.suffix != ".json":  # r-0.5 and r-0.6 would share r-0.nll.safetensors
                raise UsageError(f"`output`: {self.output} must end in .json.")
            check_writable("output", self.output)
            if self.output.exists() and not getattr(self, "resume", False):
                can_continue = "resume" in type(self).__dataclass_fields__
                also = "Continue it with `resume`, or choose" if can_continue else "Choose"
                raise UsageError(f"{self.output} exists.", f"{also} another `output`.")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(OnModels):
    """What perplexity is measured of."""

    baseline: Annotated[
        Any,
        Setting(
            "Compare every MODEL with this one and its arms, or with one arm of it, on the same tokens.",
            metavar="MODEL[:ARM]",
            preset=False,
        ),
    ] = None
    arms: Annotated[
        tuple[str, ...] | None,
        Setting(
            "What an unconverted model can do beyond its trained length, as rows of its own: truncated, window, window+sinks, "
            "streaming (StreamingLLM), window:N, window+sinks:N, streaming:N, linear, dynamic, yarn. Default: truncated.",
            metavar="ARM,ARM,…|none",
            parse=parse_names,
        ),
    ] = None
    protocol: Annotated[
        ProtocolName,
        Setting(
            "Which tokens are scored: the same last K of every segment; all, in separate windows; all, in windows that advance by S; "
            "all, as lm-evaluation-harness does it."
        ),
    ] = "fixed-target"
    targets: Annotated[
        int | None,
        Setting(
            "K: tokens scored per segment by fixed-target. Default: 256, or half the shortest length, that of the truncated arm included.",
            minimum=1,
            maximum=LONGEST,
            part_of="protocol",
        ),
    ] = None
    stride: Annotated[
        int | None,
        Setting("S: stride of the sliding protocol, in tokens.", minimum=1, maximum=LONGEST, part_of="protocol"),
    ] = None
    text: Annotated[
        tuple[Path, ...],
        Setting(
            "Score this file; repeatable. A file is a document, unless `split_on` says otherwise.",
            metavar="FILE",
            preset=False,
        ),
    ] = ()
    split_on: Annotated[SplitOn, Setting("What separates documents in text files.", preset=False, needs="text")] = (
        "file"
    )
    dataset: Annotated[
        str | None, Setting("python-docs, or PATH:CONFIG:SPLIT of a dataset. Default: python-docs.", metavar="NAME")
    ] = None
    text_column: Annotated[str, Setting("The dataset's column that holds the text.", needs="dataset")] = "text"
    max_documents: Annotated[int | None, Setting("Take only the first N documents.", minimum=1, maximum=LONGEST)] = None
    max_segments: Annotated[
        int | None,
        Setting(
            "Score only N segments of the longest length, drawn at random: one of every document before a second of any, "
            "anywhere in it, the same for every length and run.",
            minimum=1,
            maximum=LONGEST,
        ),
    ] = None
    resume: Annotated[bool, Setting("Keep the rows that the output already has.", preset=False)] = False

    def check(self) -> None:
        super().check()
        if self.resume and self.output is None:
            raise UsageError("`resume` continues the file that `output` names.")
        if self.text and self.dataset is not None:
            raise UsageError("Give `text` or `dataset`, not both.")
        check_texts(self.text)
        if isinstance(self.baseline, str) and all(_names(self.baseline, model) for model in self.models):
            raise UsageError(f"`baseline`: {self.baseline} would be compared with itself; name another model.")

    @property
    def named(self) -> tuple[Any, ...]:
        """All models; of a baseline that may have the name of an arm in it, the rest."""
        baseline = self.baseline
        if isinstance(baseline, str) and not Path(baseline).exists():
            baseline = baseline.partition(":")[0] or baseline
        return self.models if baseline is None else (*self.models, baseline)


def _names(baseline: str, model: Any) -> bool:
    """Whether a model, or an arm of it, is the baseline."""
    return isinstance(model, (str, Path)) and (baseline == str(model) or baseline.startswith(f"{model}:"))


@dataclass(frozen=True, kw_only=True)
class TaskSettings(OnModels):
    """What accuracy is measured of. task: one of `task_names()`."""

    task: Annotated[
        str,
        Setting("The generated long-range task.", argument=True, metavar="|".join([*BUILT_IN, "NAME"]), preset=False),
    ]
    samples: Annotated[
        int | None, Setting("Items per length and depth. Default: the task's own.", minimum=1, maximum=LONGEST)
    ] = None
    seed: Annotated[int, Setting("Seed of the generated items.")] = 0
    attention: Annotated[
        str | None,
        Setting(
            "Run on this registered attention backend instead of the converted model's own; auto chooses one. Others refuse "
            "padding, windows, soft caps, and families that compute attention in code of their own; folded refuses offsets too.",
            metavar="NAME",
        ),
    ] = None

    def check(self) -> None:
        super().check()
        if self.task not in TASKS and not self.plugin and not plugins_installed():
            raise unknown_task(self.task)


def unknown_task(name: str) -> UsageError:
    close = close_match(name, TASKS)
    hint = (f"Did you mean {close}? " if close else "") + f"There are {', '.join(sorted(TASKS))}."
    return UsageError(f"There is no task {name!r}.", hint)
