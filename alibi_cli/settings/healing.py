"""Settings of train. The defaults are those of presets/heal.yaml, where their reasons are."""

from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from alibi_cli.errors import UsageError
from alibi_cli.launcher import place
from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.on_disk import check_folder, check_json, check_models, check_plugins, check_texts
from alibi_cli.settings.shared import LONGEST, Command, Plugin, Revision, SplitOn, TrustRemoteCode, parse_schedule

MOST_TOKENS, MOST_SEED = 1 << 50, (1 << 32) - 1  # what figures stay readable with; what numpy takes
MOST_BATCH_TOKENS = (
    4096  # of a step, unless told otherwise; fewer if the budget would be spent in fewer than ENOUGH_STEPS
)
ENOUGH_STEPS = 400
DEVICE_TOKENS = 16384  # that a device takes at a time, unless `batch_size` says otherwise
DATA, LOSS, OPTIMIZER, MACHINE = "Text and sequences", "What is learned", "Optimizer", "Machine"
# What may differ between a run and its continuation: everything else decides which tokens are seen, and in which order, or what is learned.
FREE_OPTIMIZER = ("learning_rate", "warmup", "max_gradient_norm")
FREE_MACHINE = (
    "dtype",
    "device",
    "batch_size",
    "save_every",
    "gradient_checkpointing",
    "fsdp",
    "deepspeed",
    "report_to",
)
FREE_ON_RESUME: Set[str] = {*FREE_OPTIMIZER, *FREE_MACHINE, "force", "resume", "command", "plugin"}


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Verb):
    """What is trained, on what, and how."""

    checkpoint: Annotated[
        str,
        Setting(
            "A converted checkpoint to heal, or an unconverted one as a control; folder or Hub name.",
            argument=True,
            metavar="CHECKPOINT",
            preset=False,
        ),
    ]
    output: Annotated[Path, Setting("Where to write.", flags=("--output", "-o"), metavar="DIR", preset=False)]
    tokens: Annotated[
        int | None, Setting("Budget in tokens, rounded up to whole optimizer steps.", minimum=1, maximum=MOST_TOKENS)
    ] = None
    steps: Annotated[
        int | None, Setting("Budget in optimizer steps, instead of tokens.", minimum=1, maximum=LONGEST)
    ] = None
    text: Annotated[
        tuple[Path, ...],
        Setting(
            "Train on this file; repeatable. A file is a document, unless `split_on` says otherwise.",
            metavar="FILE",
            panel=DATA,
            preset=False,
        ),
    ] = ()
    split_on: Annotated[
        SplitOn, Setting("What separates documents in text files.", panel=DATA, preset=False, needs="text")
    ] = "file"
    dataset: Annotated[
        str | None,
        Setting(
            "PATH:CONFIG:SPLIT of a dataset, streamed; the split is train if not given. Default: the training part of python-docs.",
            metavar="NAME",
            panel=DATA,
        ),
    ] = None
    text_column: Annotated[str, Setting("The dataset's column that holds the text.", panel=DATA, needs="dataset")] = (
        "text"
    )
    batch_tokens: Annotated[
        int | None,
        Setting(
            f"Tokens per optimizer step, over all processes. Default: {MOST_BATCH_TOKENS}, or so few that the budget makes {ENOUGH_STEPS} "
            "steps.",
            minimum=1,
            maximum=LONGEST,
            panel=DATA,
        ),
    ] = None
    length: Annotated[
        int | None,
        Setting(
            "Sequence length in tokens. Default: the length for which the original was trained.",
            minimum=2,
            maximum=LONGEST,
            panel=DATA,
        ),
    ] = None
    length_schedule: Annotated[
        tuple[tuple[int, float], ...] | None,
        Setting(
            "Lengths one after the other, with their shares of the budget: 512:0.7,1024:0.3.",
            metavar="L:SHARE,…",
            panel=DATA,
            parse=parse_schedule,
        ),
    ] = None
    train_sequence_length_scaling: Annotated[
        float,
        Setting(
            "Cut every sequence into shorter ones: 0.25 makes four of each. No token is lost.",
            above=0,
            maximum=1,
            panel=DATA,
        ),
    ] = 1.0
    seed: Annotated[
        int, Setting("Seed of the order of documents and blocks.", minimum=0, maximum=MOST_SEED, panel=DATA)
    ] = 0
    teacher: Annotated[
        str | None,
        Setting(
            "Teacher of a distillation, such as the original of a converted model. Longer sequences are fed to it in windows of its "
            "own trained length.",
            metavar="MODEL",
            panel=LOSS,
        ),
    ] = None
    kd_weight: Annotated[
        float,
        Setting(
            "Weight of the teacher's KL divergence in the loss; the cross-entropy of the text has the rest.",
            minimum=0,
            maximum=1,
            panel=LOSS,
            needs="teacher",
        ),
    ] = 0.9
    temperature: Annotated[
        float, Setting("Softmax temperature of the distillation.", above=0, panel=LOSS, needs="teacher")
    ] = 1.0
    hidden_weight: Annotated[
        float,
        Setting(
            "Weight in the loss of the difference between the normalised hidden states of all layers.",
            minimum=0,
            panel=LOSS,
            needs="teacher",
        ),
    ] = 0.0
    train_slopes: Annotated[bool, Setting("Train the slopes of a converted checkpoint too.", panel=LOSS)] = False
    learning_rate: Annotated[float, Setting("Peak learning rate.", above=0, panel=OPTIMIZER)] = 1e-3
    warmup: Annotated[
        float, Setting("Warmup, as a fraction of total steps.", minimum=0, maximum=1, panel=OPTIMIZER)
    ] = 0.1
    decay: Annotated[
        Literal["cosine", "linear", "constant"],
        Setting("Schedule of the learning rate after the warmup, down to zero; constant keeps it.", panel=OPTIMIZER),
    ] = "cosine"
    weight_decay: Annotated[float, Setting("Weight decay of AdamW.", minimum=0, panel=OPTIMIZER)] = 0.0
    max_gradient_norm: Annotated[float, Setting("Gradient clipping norm.", above=0, panel=OPTIMIZER)] = 1.0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Setting("Compute dtype; master weights stay float32.", panel=MACHINE),
    ] = "float32"
    device: Annotated[
        Literal["auto", "cpu"],
        Setting("Device to train on; auto takes a GPU if there is one.", panel=MACHINE, preset=False),
    ] = "auto"
    batch_size: Annotated[
        int | None,
        Setting(
            "Sequences per device and forward pass; the result does not depend on it. Default: "
            f"{DEVICE_TOKENS:,} tokens' worth.",
            minimum=1,
            maximum=LONGEST,
            panel=MACHINE,
            preset=False,
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool, Setting("Recompute activations in the backward pass: less memory, more compute.", panel=MACHINE)
    ] = False
    fsdp: Annotated[
        str | None,
        Setting(
            "Options of FSDP, as `fsdp` of transformers' TrainingArguments takes them.",
            metavar="OPTIONS",
            panel=MACHINE,
            preset=False,
        ),
    ] = None
    deepspeed: Annotated[
        Path | None, Setting("DeepSpeed's configuration file.", metavar="FILE", panel=MACHINE, preset=False)
    ] = None
    report_to: Annotated[
        tuple[str, ...],
        Setting("Log to tensorboard, wandb, …; repeatable.", metavar="NAME", panel=MACHINE, preset=False),
    ] = ()
    save_every: Annotated[
        int, Setting("Steps between saved states, kept in DIR.training.", minimum=1, maximum=LONGEST, panel=MACHINE)
    ] = 100
    resume: Annotated[bool, Setting("Continue from the last saved state, if there is one.", preset=False)] = False
    force: Annotated[
        bool, Setting("Replace a non-empty DIR at the end, and discard an unfinished run.", preset=False)
    ] = False
    revision: Revision = None
    plugin: Plugin = ()
    trust_remote_code: TrustRemoteCode = False
    command: Command = ""

    def check(self) -> None:
        super().check()
        if (self.tokens is None) == (self.steps is None):
            raise UsageError("Give the budget as `tokens` or as `steps`.")
        if self.length is not None and self.length_schedule is not None:
            raise UsageError("Give `length` or `length_schedule`, not both.")
        if self.hidden_weight and self.teacher is None:  # of a preset
            raise UsageError("`hidden_weight` needs `teacher`.")
        if self.text and self.dataset is not None:
            raise UsageError("Give `text` or `dataset`, not both.")
        check_models([self.checkpoint], self.revision)
        check_plugins(self.plugin)
        if self.teacher is not None:
            check_models([self.teacher])
        if not self.resume:  # the tokens of a run that is continued are kept
            check_texts(self.text)
        if self.fsdp is not None and (self.device == "cpu" or place().count == 1):
            raise not_sharded()
        if self.deepspeed is not None:
            check_json("deepspeed", self.deepspeed)

    def check_output(self) -> None:
        super().check_output()
        check_folder(
            self.output, self.checkpoint, self.force or self.resume
        )  # what is there may be this very run, finished

    def fixed(self, free: Set[str] = FREE_ON_RESUME) -> dict[str, Any]:
        """The settings that a continuation must share, as JSON: all but `free`."""
        kept = {name: value for name, value in asdict(self).items() if name not in free}
        return {name: _plain(value) for name, value in kept.items()}


def not_sharded() -> UsageError:
    return UsageError(
        "`fsdp` shards a model over the accelerators of several processes; here accelerate would train without it and not say so.",
        "Leave it out: several processes share the batches all the same.",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
