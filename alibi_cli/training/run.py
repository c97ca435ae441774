"""alibi train: a checkpoint and text -> a trained, verified checkpoint."""

import shlex
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from alibi_cli.checkpoint.lock import exclusive
from alibi_cli.checkpoint.partial import check_output, partial_folder
from alibi_cli.checkpoint.report import Verification
from alibi_cli.checkpoint.source import Source, open_source, read_json
from alibi_cli.checkpoint.writer import versions, write_json
from alibi_cli.errors import EXIT_USAGE, AlibiError, explained, first_line
from alibi_cli.evaluation.models import ModelInfo, describe, load_model, load_tokenizer, original_length
from alibi_cli.evaluation.text import DEFAULT, open_text
from alibi_cli.evaluation.tokens import special_tokens
from alibi_cli.training.data import Blocks, Collator, Masking, Tokens, keeps_documents_apart, read_tokens, write_tokens
from alibi_cli.training.output import verify_trained, write_files, write_record, write_weights
from alibi_cli.training.settings import Budget, Loss, TrainReport, TrainRequest, make_budget
from alibi_cli.training.slopes import attach_slopes, settle_slopes
from alibi_cli.training.trainer import Guard, HealingTrainer, SaveWhole, last_state, training_arguments

REQUEST = "request.json"  # shows that a work folder is ours, and what its states belong to
DEVICE_TOKENS = 16384  # tokens that a device takes at a time, unless --batch-size says otherwise
RECORDED_LOSSES = 200

Update = Callable[[str, float, float], None]


def train(request: TrainRequest, update: Update = lambda *_: None) -> TrainReport:
    """Trains a checkpoint, converted or not, and writes the result as one.

    The states of an unfinished run are kept in `OUTPUT.training` and removed at the end. Under `accelerate launch` or torchrun every
    process calls this, and the first one writes. Torch's global random state is set from the seed.

    Raises:
        AlibiError: bad settings (exit code 2), training that failed (1: the last whole state is kept for `resume`), or another run
            that has the same output.
    """
    request.check()
    source = open_source(request.checkpoint, request.revision)
    check_output(request.output, source.folder, request.force)
    info = describe(request.checkpoint, request.revision, request.trust_remote_code)
    teacher_info = None if request.teacher is None else describe(request.teacher, None, request.trust_remote_code)
    tokenizer = load_tokenizer(info, request.trust_remote_code)
    masking = _masking(info, tokenizer)
    if request.train_slopes and not info.converted:
        raise AlibiError(f"--train-slopes: {info.name} is not converted and has no slopes.", exit_code=EXIT_USAGE)
    budget = make_budget(request, _trained_length(info, masking))
    job = _Job(request, info, teacher_info, budget, masking, round(request.warmup * budget.steps))
    _check_models(job, tokenizer)
    args = training_arguments(request, job.work, budget.steps, job.warmup_steps)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = _batches(request, budget, args.world_size)
    with exclusive(job.work) if args.process_index == 0 else nullcontext():
        return _train(job, source, tokenizer, args, update)


def _train(job: "_Job", source: Source, tokenizer: Any, args: Any, update: Update) -> TrainReport:
    request, info, budget = job.request, job.info, job.budget
    try:
        with args.main_process_first(local=False):
            tokens = _prepare(job, tokenizer, args)
        trainer, saver = _trainer(job, tokens, args, update)
        state = last_state(job.work)
        update("Training", state[1]["step"] if state else 0, budget.steps)
        try:
            trainer.train(resume_from_checkpoint=str(state[0]) if state else None)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise AlibiError(f"Cannot write {job.work}: {reason}.", hint=job.what_is_kept) from error
    except AlibiError:
        if args.process_index == 0 and job.claimed and last_state(job.work) is None:
            _clear(job.work)  # there is nothing to continue
        raise

    seconds = saver.seconds
    reports: list[TrainReport | None] = [None]
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if args.process_index == 0:
        update("Writing", budget.steps, budget.steps)
        # Without the wrapper that computes in --dtype: what is written is compared in float32.
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        if weights is not None:
            model = _student(job, info)
            model.load_state_dict(weights)
        if request.train_slopes:
            settle_slopes(model)
        with partial_folder(request.output, replace=request.force) as folder:
            write_files(source, folder, model.config.alibi_slopes if request.train_slopes else None)
            digests = write_weights(model, source, folder)
            verified = verify_trained(model, info, folder, request.trust_remote_code)
            report = _report(job, trainer, tokens, seconds, saver.resumed_at, digests, verified)
            write_record(report, source, folder)
        _clear(job.work)
        reports = [report]
    broadcast_object_list(reports)
    return cast(TrainReport, reports[0])


@dataclass(frozen=True)
class _Job:
    request: TrainRequest
    info: ModelInfo
    teacher: ModelInfo | None
    budget: Budget
    masking: Masking | None
    warmup_steps: int

    @property
    def work(self) -> Path:
        """Where the states of the run are kept while it is not finished."""
        output = self.request.output.resolve()
        return output.with_name(output.name + ".training")

    @property
    def claimed(self) -> bool:
        return (self.work / REQUEST).is_file()

    @property
    def what_is_kept(self) -> str:
        state = last_state(self.work)
        return f"Step {state[1]['step']} is kept: --resume continues from it." if state else "No step had been saved."

    def identity(self, processes: int) -> dict[str, Any]:
        """What a continuation must share."""
        digests = {"digest": self.info.digest, "teacher_digest": None if self.teacher is None else self.teacher.digest}
        return {**self.request.fixed(), **digests, "output": str(self.request.output.resolve()), "processes": processes}


def _trained_length(info: ModelInfo, masking: Masking | None) -> int | None:
    """Text tokens of a sequence at the length for which the original was trained."""
    length = original_length(info)
    return length if masking is None or length is None else length - len(masking.prefix) - len(masking.suffix)


def _masking(info: ModelInfo, tokenizer: Any) -> Masking | None:
    if not info.masked:
        return None
    if tokenizer.mask_token_id is None:
        raise AlibiError(f"The tokenizer of {info.name} has no mask token.", exit_code=EXIT_USAGE)
    prefix, suffix = special_tokens(tokenizer)
    return Masking(tokenizer.mask_token_id, len(tokenizer), tuple(prefix), tuple(suffix))


def _check_models(job: _Job, tokenizer: Any) -> None:
    """Raises AlibiError unless positions reach as far as the sequences, and teacher and student speak of the same tokens."""
    special = 0 if job.masking is None else len(job.masking.prefix) + len(job.masking.suffix)
    longest = max(stage.length for stage in job.budget.stages) + special
    for info in (job.info, job.teacher):
        if info is not None and info.hard_limit is not None and longest > info.hard_limit:
            raise AlibiError(
                f"{info.name} has positions for {info.hard_limit} tokens; sequences of {longest} do not fit.",
                hint="Choose a shorter --length or --length-schedule.",
                exit_code=EXIT_USAGE,
            )
    if job.teacher is None:
        return
    if job.teacher.masked != job.info.masked:
        raise AlibiError(
            f"The teacher {job.teacher.name} and {job.info.name} do not predict the same: one fills in masked tokens.",
            exit_code=EXIT_USAGE,
        )
    other = load_tokenizer(job.teacher, job.request.trust_remote_code)
    sizes = [read_json(info.folder / "config.json").get("vocab_size") for info in (job.info, job.teacher)]
    probe = "def f(x):\n    return 'naïve' + str(x)  # 1234 …"
    same = tokenizer.get_vocab() == other.get_vocab() and tokenizer(probe)["input_ids"] == other(probe)["input_ids"]
    if not same or sizes[0] != sizes[1]:
        raise AlibiError(
            f"The teacher {job.teacher.name} and {job.info.name} do not have the same tokens.",
            hint="A teacher must share tokenizer and vocabulary, such as the original of a converted checkpoint does.",
            exit_code=EXIT_USAGE,
        )


def _batches(request: TrainRequest, budget: Budget, processes: int) -> tuple[int, int]:
    """(blocks that a device takes at a time, how many such batches make a step)."""
    each, rest = divmod(budget.blocks_per_step, processes)
    if rest:
        raise AlibiError(
            f"--batch-tokens {budget.batch_tokens} are {budget.blocks_per_step} sequences of {budget.block} tokens, which "
            f"{processes} processes cannot share evenly.",
            hint="Give --batch-tokens.",
            exit_code=EXIT_USAGE,
        )
    most = request.batch_size or max(1, DEVICE_TOKENS // budget.block)
    size = max(size for size in range(1, each + 1) if each % size == 0 and size <= most)
    return size, each // size


def _prepare(job: _Job, tokenizer: Any, args: Any) -> Tokens:
    """Makes or checks the work folder; the tokens of the text, from there if an earlier run left them."""
    request, work = job.request, job.work
    if args.process_index == 0:
        _claim(job, job.identity(args.world_size))
    tokens = read_tokens(work)
    if tokens is None and args.process_index > 0:
        raise AlibiError("The first process could not prepare the text; its message says why.")
    if tokens is None:
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise AlibiError(f"The tokenizer of {job.info.name} has no end-of-text token.", exit_code=EXIT_USAGE)
        streamed = request.dataset not in (None, DEFAULT)
        name, documents = open_text(
            request.dataset, request.text, split_on=request.split_on, column=request.text_column, training=True
        )
        limit = job.budget.tokens + job.budget.block + 1 if streamed else None
        with explained(f"Cannot write {work}"):
            write_tokens(work, name, documents, tokenizer, end, limit)
        tokens = read_tokens(work)
    return cast(Tokens, tokens)


def _claim(job: _Job, identity: dict[str, Any]) -> None:
    """A work folder for this run: a new one, or that of the run which is to be continued."""
    work, request = job.work, job.request
    if work.exists() and not job.claimed and any(work.iterdir()):
        raise AlibiError(f"{work} exists and holds no training.", hint="Move it away.", exit_code=EXIT_USAGE)
    state = last_state(work)
    if state is not None and request.resume:
        before = read_json(work / REQUEST)
        different = sorted(name for name in identity if before.get(name) != identity[name])
        if different:
            name = different[0]
            raise AlibiError(
                f"{work} belongs to a run with other settings: {name} was {before.get(name)!r} and is {identity[name]!r}.",
                hint="Resume with the same settings, or start anew with --force.",
                exit_code=EXIT_USAGE,
            )
        return
    if state is not None and not request.force:
        raise AlibiError(
            f"{work} holds step {state[1]['step']} of a run that was not finished.",
            hint="Continue it with --resume, or discard it with --force.",
            exit_code=EXIT_USAGE,
        )
    try:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        write_json(work / REQUEST, identity)
    except OSError as error:
        raise AlibiError(f"Cannot write {work}: {error.strerror}.") from None


def _student(job: _Job, info: ModelInfo) -> Any:
    model = load_model(info, "cpu", "float32", job.request.trust_remote_code)
    if job.request.train_slopes:
        attach_slopes(model, original_length(job.info) or job.budget.block)
    return model


def _trainer(job: _Job, tokens: Tokens, args: Any, update: Update) -> tuple[HealingTrainer, SaveWhole]:
    request, trust = job.request, job.request.trust_remote_code
    state, facts = last_state(job.work) or (None, {"step": 0, "seconds": 0.0, "resumed_at": []})
    # From a state's own folder, because the Trainer's way of reading one loses weights that transformers merges on loading (experts).
    info = job.info if state is None else replace(job.info, folder=state)
    model, teacher = _student(job, info), None
    if job.teacher is not None:
        teacher = load_model(job.teacher, "cpu", request.dtype, trust).requires_grad_(False).to(args.device)
        teacher.config.use_cache = False
    packed = not info.masked and all(keeps_documents_apart(m) for m in (model, teacher) if m is not None)
    if request.hidden_weight and not packed:
        raise AlibiError(
            f"--hidden-weight needs rows that hold several documents, which {job.info.name} cannot keep apart.",
            exit_code=EXIT_USAGE,
        )
    guard = Guard(lambda: job.what_is_kept)
    if state is not None:
        for row in read_json(state / "trainer_state.json")["log_history"]:
            if "loss" in row:
                guard.check(row["step"], row["loss"])

    def on_step(step: int, logs: dict[str, float]) -> None:
        update(f"Training, loss {logs['ce']:.3f}", step, job.budget.steps)

    trainer = HealingTrainer(
        request,
        teacher,
        guard,
        on_step,
        model=model,
        args=args,
        train_dataset=Blocks(tokens, job.budget, request.seed, job.masking),
        data_collator=Collator(packed, job.masking),
    )
    saver = SaveWhole(
        trainer.accelerator, facts["seconds"], facts["resumed_at"] + ([] if state is None else [facts["step"]])
    )
    trainer.add_callback(saver)
    return trainer, saver


def _report(
    job: _Job,
    trainer: HealingTrainer,
    tokens: Tokens,
    seconds: float,
    resumed_at: list[int],
    digests: dict[str, str],
    verified: Verification,
) -> TrainReport:
    request, info, budget = job.request, job.info, job.budget
    taught = job.teacher is not None
    auto = "AutoModelForMaskedLM" if info.masked else "AutoModelForCausalLM"
    remote = ", trust_remote_code=True" if info.converted else ""
    return TrainReport(
        output=str(request.output),
        source=request.checkpoint,
        source_digest=info.digest,
        converted=info.converted,
        model_type=info.model_type,
        tokens=budget.tokens,
        steps=budget.steps,
        batch_tokens=budget.batch_tokens,
        lengths=list(budget.stages),
        passes=trainer.train_dataset.passes,
        packed=trainer.data_collator.packed,
        seconds=seconds,
        tokens_per_second=budget.tokens / seconds,
        processes=trainer.args.world_size,
        seed=request.seed,
        dtype=request.dtype,
        learning_rate=request.learning_rate,
        warmup_steps=job.warmup_steps,
        decay=request.decay,
        weight_decay=request.weight_decay,
        max_gradient_norm=request.max_gradient_norm,
        teacher=request.teacher,
        teacher_digest=job.teacher.digest if job.teacher is not None else None,
        kd_weight=request.kd_weight if taught else None,
        temperature=request.temperature if taught else None,
        hidden_weight=request.hidden_weight if taught else None,
        train_slopes=request.train_slopes,
        text=tokens.fingerprint,
        resumed_at=resumed_at,
        losses=_losses(trainer.state.log_history, budget),
        verified=verified,
        sha256=digests,
        versions={**versions(), "accelerate": version("accelerate")},
        loads_with=f'{auto}.from_pretrained("{request.output}"{remote})',
        command=request.command or shlex.join(["alibi", "train", request.checkpoint, "-o", str(request.output)]),
    )


def _losses(history: list[dict[str, float]], budget: Budget) -> list[Loss]:
    """The logged losses, as means over at most RECORDED_LOSSES stretches of steps."""
    rows = [row for row in history if "loss" in row]
    stretch = -(-len(rows) // RECORDED_LOSSES)
    found = []
    for begin in range(0, len(rows), stretch):
        part = rows[begin : begin + stretch]
        means = {
            name: sum(row[name] for row in part) / len(part)
            for name in ("loss", "ce", "kd", "hidden")
            if name in part[0]
        }
        step = int(part[-1]["step"])
        found.append(Loss(step=step, tokens=step * budget.batch_tokens, **means))
    return found


def _clear(work: Path) -> None:
    """Removes what this module put there; logs of --report-to stay."""
    for path in (*work.glob("checkpoint-*"), *work.glob("text.*"), work / REQUEST):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(work.iterdir()):
        work.rmdir()
