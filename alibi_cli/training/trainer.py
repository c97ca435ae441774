"""transformers' Trainer with a teacher, a guard against losses that explode, and states that are whole or absent."""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.files.atomic import fsync
from alibi_cli.models.loading import device_type
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.training.loss import hidden_loss, token_losses
from alibi_cli.training.sharded import check_installed
from alibi_cli.training.teacher import Teacher
from alibi_cli.training.trainable_slopes import PARAMETER

COMPLETE = "complete.json"  # in a saved state, written last
WINDOW = 20  # steps over which the guard takes the mean


@dataclass
class Guard:
    """Stops a run that cannot become good again.

    A loss or gradient that is not finite, or a mean loss of the last WINDOW steps above twice the best such mean plus one nat: far above
    what noise between batches does, and far below the loss of a model that knows nothing, at which a diverged one settles.
    """

    what_is_kept: Callable[[], str]
    losses: list[float] = field(default_factory=list)
    best: float = math.inf

    def check(self, step: int, loss: float) -> None:
        """Raises AlibiError if the loss of a step shows that training has failed."""
        if not math.isfinite(loss):
            raise self._stopped(step, f"the loss is {loss}")
        self.losses = [*self.losses[1 - WINDOW :], loss]
        mean = sum(self.losses) / len(self.losses)
        if len(self.losses) == WINDOW:
            self.best = min(self.best, mean)
            if mean > 2 * self.best + 1:
                raise self._stopped(
                    step, f"the loss diverges: {mean:.3f} over the last {WINDOW} steps, and it was {self.best:.3f}"
                )

    def check_gradient(self, step: int, norm: float) -> None:
        if not math.isfinite(norm):
            raise self._stopped(step, f"the norm of the gradient is {norm}")

    def _stopped(self, step: int, what: str) -> AlibiError:
        return AlibiError(
            f"Training stopped at step {step}: {what}.",
            hint=f"Try a lower `learning_rate`, a longer `warmup` or `dtype=float32`. {self.what_is_kept()}",
        )


class HealingTrainer(Trainer):
    """compute_loss is the mean over all targets of the optimizer step, whatever processes and accumulation make of it."""

    def __init__(
        self,
        settings: TrainSettings,
        teacher: Teacher | None,
        guard: Guard,
        on_step: Callable[..., None],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.settings, self.teacher, self.guard, self.on_step = settings, teacher, guard, on_step
        # The documented switches: the loss is divided by the targets of the whole step, which the Trainer counts.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        self.parts = torch.zeros(3, device=self.args.device)  # means of CE, KL and hidden states over this step
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ == "PrinterCallback":
                self.remove_callback(callback)  # it prints to stdout
        self.add_callback(_BeforeTheStep(self))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith(PARAMETER)]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        settings, labels = self.settings, inputs["shift_labels"]
        fed = {name: value for name, value in inputs.items() if name not in ("labels", "shift_labels")}
        fed["output_hidden_states"] = settings.hidden_weight > 0
        outputs = model(**fed)
        theirs, states = None, None
        if self.teacher is not None:
            with self.accelerator.autocast():
                theirs, states = self.teacher(fed)
        ce, kd = token_losses(outputs.logits, labels, theirs, settings.temperature)
        loss, hidden = ce, None
        if self.teacher is not None:
            loss = (1 - settings.kd_weight) * ce + settings.kd_weight * settings.temperature**2 * kd
            if states is not None:
                hidden = hidden_loss(outputs.hidden_states, states, labels >= 0)
                loss = loss + settings.hidden_weight * hidden
        # Gradients are averaged over processes, and the targets are counted over all of them.
        scale = self.accelerator.num_processes / num_items_in_batch.clamp(min=1)
        parts = torch.stack([ce.detach(), kd.detach(), ce.new_zeros(()) if hidden is None else hidden.detach()])
        self.parts += parts * scale
        return (loss * scale, outputs) if return_outputs else loss * scale

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            ce, kd, hidden = self.accelerator.reduce(self.parts, "mean").tolist()
            self.parts.zero_()
            logs["ce"] = ce
            if self.teacher is not None:
                logs["kd"] = kd
            if self.settings.hidden_weight:
                logs["hidden"] = hidden
        super().log(logs, start_time)
        if "loss" in logs:
            self.guard.check(self.state.global_step, logs["loss"])
            self.on_step(self.state.global_step, logs)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """
        Raises:
            OSError: a state cannot be written. torch's own writer says so by an error of C++ that names no reason.
        """
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:
            if "inline_container" not in str(error) and "iostream" not in str(error):
                raise
            raise OSError("torch.save failed, as it does on a full disk") from error


class _BeforeTheStep(TrainerCallback):
    """A gradient that is not finite must not reach the weights: they would be saved. Sets the learning rate of a continuation."""

    def __init__(self, trainer: HealingTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scheduler, optimizer = kwargs["lr_scheduler"], kwargs["optimizer"]
        if state.global_step and hasattr(
            scheduler, "lr_lambdas"
        ):  # the saved ones hold the rate that they were made with
            scheduler.base_lrs = [args.learning_rate] * len(scheduler.base_lrs)
            for group, shape in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                group["initial_lr"], group["lr"] = args.learning_rate, args.learning_rate * shape(scheduler.last_epoch)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        guard, step = self.trainer.guard, state.global_step + 1
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if gradients:
            guard.check_gradient(step, float(torch.nn.utils.get_total_norm(gradients)))


class SaveWhole(TrainerCallback):
    """Keeps the newest whole state in the work folder: it is marked once everything is on disk, and only then is the older one removed."""

    def __init__(self, accelerator: Any, seconds_before: float, resumed_at: list[int]):
        self.accelerator, self.resumed_at = accelerator, resumed_at
        self.started = time.monotonic() - seconds_before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.accelerator.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in sorted(folder.rglob("*")):
            fsync(path)
        facts = {"step": state.global_step, "seconds": self.seconds, "resumed_at": self.resumed_at}
        (folder / COMPLETE).write_text(json.dumps(facts))
        for path in (folder / COMPLETE, folder, folder.parent):
            fsync(path)
        for other in Path(args.output_dir).glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)


def last_state(work: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole state in a work folder, and what its marker says."""
    found = []
    for marker in work.glob(f"checkpoint-*/{COMPLETE}"):
        try:
            says = json.loads(marker.read_text())
            found.append((says["step"], marker.parent, says))
        except (OSError, ValueError, KeyError):  # killed while the marker was written, or removed meanwhile
            continue
    return max(found, key=lambda state: state[0])[1:] if found else None


def training_arguments(settings: TrainSettings, work: Path, steps: int, warmup_steps: int) -> TrainingArguments:
    """The part of the settings that transformers knows. Raises AlibiError for what it refuses."""
    check_installed(settings)
    checkpointing: dict[str, Any] = {"gradient_checkpointing": True} if settings.gradient_checkpointing else {}
    try:
        args = TrainingArguments(
            output_dir=str(work),
            max_steps=steps,
            train_sampling_strategy="sequential",  # the data have an order of their own
            learning_rate=settings.learning_rate,
            lr_scheduler_type={"constant": "constant_with_warmup"}.get(settings.decay, settings.decay),
            warmup_steps=warmup_steps,
            weight_decay=settings.weight_decay,
            adam_beta2=0.95,
            max_grad_norm=settings.max_gradient_norm,
            seed=settings.seed,
            bf16=settings.dtype == "bfloat16",
            use_cpu=device_type(settings.device) == "cpu",
            fsdp=settings.fsdp,
            deepspeed=None if settings.deepspeed is None else str(settings.deepspeed),
            report_to=list(settings.report_to),
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=settings.save_every,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            average_tokens_across_devices=True,
            disable_tqdm=True,
            **checkpointing,
        )
        for callback in get_reporting_integration_callbacks(list(settings.report_to)):
            callback()  # whether its package is installed
        args._n_gpu = min(args.n_gpu, 1)  # several GPUs are used by several processes, not by nn.DataParallel
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise UsageError(f"Training cannot be set up: {' '.join(str(error).split())}") from None
    return args
