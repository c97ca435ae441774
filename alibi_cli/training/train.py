"""The verb `train`: a checkpoint and text -> a trained, verified checkpoint."""

import gc
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.files.atomic import check_output, partial_folder
from alibi_cli.files.lock import exclusive
from alibi_cli.files.strict_json import read_json
from alibi_cli.models.language_model import ModelInfo, describe
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.models.plugins import load_plugins
from alibi_cli.models.source import Source, open_source
from alibi_cli.progress import Update, Watch, notes, steps
from alibi_cli.settings.healing import DEVICE_TOKENS, TrainSettings
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import tell
from alibi_cli.text.tokens import ids_of, special_tokens
from alibi_cli.training.budget import Budget, make_budget
from alibi_cli.training.data import Blocks, Collator, Masking, Tokens, keeps_documents_apart
from alibi_cli.training.duration_of_run import announce_run
from alibi_cli.training.job import REQUEST, Job, clear, kept, prepare
from alibi_cli.training.sharded import check_sharding, gathered_weights, loaded_whole
from alibi_cli.training.teacher import Teacher
from alibi_cli.training.train_report import TrainReport, make_report
from alibi_cli.training.trainable_slopes import attach_slopes, settle_slopes
from alibi_cli.training.trainer import Guard, HealingTrainer, SaveWhole, last_state, training_arguments
from alibi_cli.training.write_trained import finished, verify_trained, write_files, write_record, write_weights


@takes_settings(TrainSettings)
def train(
    checkpoint: str | Path,
    output: str | Path,
    *,
    preset: str | None = None,
    progress: Watch | None = None,
    **settings: Any,
) -> TrainReport:
    """Trains a checkpoint, converted or not, and writes the result as one.

    The states of an unfinished run are kept in `output` + .training and removed at the end. Under `accelerate launch` or torchrun every
    process calls this, and the first one writes. Torch's global random state is set from the seed.

    Args:
        checkpoint: a folder, or the name of a Hub repository. It is never changed.
        output: a folder.
        preset: settings of presets/NAME.yaml, in place of those that are not given.
        progress: is called with each `Progress`.
        settings: see `TrainSettings`; one of `tokens` and `steps` is needed.

    Raises:
        UsageError: bad settings.
        AlibiError: training that failed (the last whole state is kept for `resume`), or another run that has the same output.
    """
    given = {"checkpoint": checkpoint, "output": output, **settings}
    return run_train(settings_of(TrainSettings, given, preset), progress)


def run_train(settings: TrainSettings, progress: Watch | None = None) -> TrainReport:
    """`train`, by settings."""
    load_plugins(settings.plugin, notes(progress))
    source = open_source(settings.checkpoint, settings.revision)
    check_output(settings.output, source.folder, settings.force or settings.resume)  # see `_finished`
    info = describe(settings.checkpoint, settings.revision, settings.trust_remote_code)
    teacher_info = None if settings.teacher is None else describe(settings.teacher, None, settings.trust_remote_code)
    tokenizer = load_tokenizer(info, settings.trust_remote_code)
    masking = _masking(info, tokenizer)
    if settings.train_slopes and not info.converted:
        raise UsageError(f"`train_slopes`: {info.name} is not converted and has no slopes.")
    budget = make_budget(settings, _trained_length(info, masking))
    job = Job(settings, info, teacher_info, budget, masking, round(settings.warmup * budget.steps))
    _check_models(job, tokenizer)
    args = training_arguments(settings, job.work, budget.steps, job.warmup_steps)
    check_sharding(settings, args)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = _batches(settings, budget, args.world_size)
    with exclusive(job.work) if args.process_index == 0 else nullcontext():
        report = _finished(job, args) if settings.resume else None
        if report is None:
            check_output(settings.output, source.folder, settings.force)
            report = _train(job, source, tokenizer, args, progress)
        else:
            notes(progress)(f"{settings.output} holds this run, finished; nothing was trained.")
    if args.world_size > 1:
        gc.collect()  # what was trained holds the process group, whose threads would outlive it and can abort the program at its end
    return report


def _kept(job: Job) -> str:
    return kept(job.settings.output) or "No step had been saved."


def _finished(job: Job, args: Any) -> TrainReport | None:
    """The report of a run that needs no continuation, to every process."""
    reports: list[TrainReport | None] = [None]
    if args.process_index == 0 and (report := finished(job, args.world_size)) is not None:
        if job.claimed and read_json(job.work / REQUEST) == job.identity(args.world_size):
            clear(job.work)
        reports = [report]
    broadcast_object_list(reports)
    return reports[0]


def _train(job: Job, source: Source, tokenizer: Any, args: Any, watch: Watch | None) -> TrainReport:
    settings, info, budget, update = job.settings, job.info, job.budget, steps(watch)
    try:
        with args.main_process_first(local=False):
            tokens = prepare(job, tokenizer, args)
        tell(tokens.fingerprint.get("normalised", ()), notes(watch))
        trainer, saver = _trainer(job, tokens, args, update)
        state = last_state(job.work)
        if args.process_index == 0:
            announce_run(job, state[1]["step"] if state else 0, args.world_size, notes(watch))
        update("Training", state[1]["step"] if state else 0, budget.steps)
        try:
            trainer.train(resume_from_checkpoint=str(state[0]) if state else None)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise AlibiError(f"Cannot write {job.work}: {reason}.", hint=_kept(job)) from error
    except AlibiError:
        if args.process_index == 0 and job.claimed and last_state(job.work) is None:
            clear(job.work)  # there is nothing to continue
        raise

    seconds = saver.seconds
    reports: list[TrainReport | None] = [None]
    weights = gathered_weights(trainer)
    if args.process_index == 0:
        update("Writing", budget.steps, budget.steps)
        with loaded_whole(args), partial_folder(settings.output, replace=settings.force) as folder:
            model = _trained(job, trainer, weights)
            slopes = model.config.alibi_slopes if settings.train_slopes else None
            write_files(source, folder, slopes, settings.trust_remote_code)
            digests = write_weights(model, source, folder)
            verified = verify_trained(model, info, folder, settings.trust_remote_code)
            report = make_report(job, trainer, tokens, seconds, saver.resumed_at, digests, verified)
            write_record(report, source, folder)
        clear(job.work)
        reports = [report]
    broadcast_object_list(reports)
    return cast(TrainReport, reports[0])


def _trained(job: Job, trainer: HealingTrainer, weights: dict[str, Any] | None) -> Any:
    """weights: those of a sharded model, which are put into a whole one."""
    if weights is None:
        # Without the wrapper that computes in --dtype: what is written is compared in float32.
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    else:
        model = _student(job, job.info)
        model.load_state_dict(weights)
    if job.settings.train_slopes:
        settle_slopes(model)
    return model


def _trained_length(info: ModelInfo, masking: Masking | None) -> int | None:
    """Text tokens of a sequence at the length for which the original was trained."""
    length = info.original_length
    return length if masking is None or length is None else length - len(masking.prefix) - len(masking.suffix)


def _masking(info: ModelInfo, tokenizer: Any) -> Masking | None:
    if not info.masked:
        return None
    if tokenizer.mask_token_id is None:
        raise UsageError(f"The tokenizer of {info.name} has no mask token.")
    prefix, suffix = special_tokens(tokenizer)
    return Masking(tokenizer.mask_token_id, len(tokenizer), tuple(prefix), tuple(suffix))


def _check_models(job: Job, tokenizer: Any) -> None:
    """Raises AlibiError unless positions reach as far as the sequences, and teacher and student speak of the same tokens. A teacher's need
    not reach so far."""
    if job.info.hard_limit is not None and job.longest > job.info.hard_limit:
        raise UsageError(
            f"{job.info.name} has positions for {job.info.hard_limit} tokens; sequences of {job.longest} do not fit.",
            hint="Choose a shorter `length` or `length_schedule`.",
        )
    if job.teacher is None:
        return
    if job.teacher.masked != job.info.masked:
        raise UsageError(
            f"The teacher {job.teacher.name} and {job.info.name} do not predict the same: one fills in masked tokens.",
        )
    other = load_tokenizer(job.teacher, job.settings.trust_remote_code)
    sizes = [read_json(info.files / "config.json").get("vocab_size") for info in (job.info, job.teacher)]
    probe = "def f(x):\n    return 'naïve' + str(x)  # 1234 …"
    same = tokenizer.get_vocab() == other.get_vocab() and ids_of(probe, tokenizer, special=True) == ids_of(
        probe, other, special=True
    )
    if not same or sizes[0] != sizes[1]:
        raise UsageError(
            f"The teacher {job.teacher.name} and {job.info.name} do not have the same tokens.",
            hint="A teacher must share tokenizer and vocabulary, such as the original of a converted checkpoint does.",
        )


def _batches(settings: TrainSettings, budget: Budget, processes: int) -> tuple[int, int]:
    """(blocks that a device takes at a time, how many such batches make a step)."""
    each, rest = divmod(budget.blocks_per_step, processes)
    if rest:
        raise UsageError(
            f"`batch_tokens={budget.batch_tokens}` are {budget.blocks_per_step} sequences of {budget.block} tokens, which "
            f"{processes} processes cannot share evenly.",
            hint="Give `batch_tokens`.",
        )
    most = settings.batch_size or max(1, DEVICE_TOKENS // budget.block)
    size = max(size for size in range(1, each + 1) if each % size == 0 and size <= most)
    return size, each // size


def _student(job: Job, info: ModelInfo) -> Any:
    model = load_model(info, "cpu", "float32", job.settings.trust_remote_code)
    if job.settings.train_slopes:
        attach_slopes(model, job.info.original_length or job.budget.block)
    return model


def _trainer(job: Job, tokens: Tokens, args: Any, update: Update) -> tuple[HealingTrainer, SaveWhole]:
    settings, trust = job.settings, job.settings.trust_remote_code
    state, facts = last_state(job.work) or (None, {"step": 0, "seconds": 0.0, "resumed_at": []})
    # From a state's own folder, because the Trainer's way of reading one loses weights that transformers merges on loading (experts).
    info = job.info if state is None else replace(job.info, folder=state)
    teacher: Any = None
    with loaded_whole(args):
        model = _student(job, info)
        if job.teacher is not None:
            teacher = load_model(job.teacher, "cpu", settings.dtype, trust).requires_grad_(False).to(args.device)
            teacher.config.use_cache = False
    packed = not info.masked and all(keeps_documents_apart(m) for m in (model, teacher) if m is not None)
    if settings.hidden_weight and not packed:
        raise UsageError(
            f"`hidden_weight` needs rows that hold several documents, which {job.info.name} cannot keep apart.",
        )
    guard = Guard(lambda: _kept(job))
    if state is not None:
        for row in read_json(state / "trainer_state.json")["log_history"]:
            if "loss" in row:
                guard.check(row["step"], row["loss"])

    def on_step(step: int, logs: dict[str, float]) -> None:
        update(f"Training, loss {logs['ce']:.3f}", step, job.budget.steps)

    trainer = HealingTrainer(
        settings,
        None if teacher is None else Teacher(teacher, job.teacher_length, info.masked),
        guard,
        on_step,
        model=model,
        args=args,
        train_dataset=Blocks(tokens, job.budget, settings.seed, job.masking),
        data_collator=Collator(packed, job.masking),
    )
    saver = SaveWhole(
        trainer.accelerator, facts["seconds"], facts["resumed_at"] + ([] if state is None else [facts["step"]])
    )
    trainer.add_callback(saver)
    return trainer, saver
