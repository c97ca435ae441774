"""alibi train"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alibi_cli.cli import options, output
from alibi_cli.cli.plugins import load_plugins
from alibi_cli.cli.presets import settings

if TYPE_CHECKING:
    from alibi_cli.training.report import TrainReport

EXAMPLES = """Examples:\n
  alibi train gpt2-alibi -o gpt2-healed --teacher gpt2 --tokens 20000000 --dataset wikitext:wikitext-103-raw-v1\n
  alibi train gpt2 -o gpt2-control --tokens 20000000 --dataset wikitext:wikitext-103-raw-v1\n
  alibi train DIR -o OUT --steps 500 --length-schedule 512:0.7,1024:0.3 --resume\n
  accelerate launch --num_processes 4 -m alibi_cli train DIR -o OUT --tokens 1000000000 --dtype bfloat16"""

DATA, LOSS, OPTIMIZER, MACHINE = "Text and sequences", "What is learned", "Optimizer", "Machine"


def command(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A converted checkpoint to heal, or an unconverted one as a control; folder or Hub name.",
            show_default=False,
        ),
    ],
    output_folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.", show_default=False)
    ],
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Budget in tokens, rounded up to whole optimizer steps.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Budget in optimizer steps instead.", show_default=False)
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Train on this file; repeatable, one document each.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    split_on: Annotated[
        Literal["file", "blank-line"],
        typer.Option(help="What separates documents in --text files.", rich_help_panel=DATA),
    ] = "file",
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="PATH:CONFIG:SPLIT of a dataset, streamed; the split is train if not given. Default: the training part of python-docs.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    text_column: Annotated[
        str, typer.Option(help="The dataset's column that holds the text.", rich_help_panel=DATA)
    ] = "text",
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of an optimizer step, over all processes. Default: 4096, or so few that --tokens make 400 steps.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tokens of a sequence. Default: the length for which the original was trained.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    length_schedule: Annotated[
        str | None,
        typer.Option(
            metavar="L:SHARE,…",
            help="Lengths one after the other, with their shares of the budget: 512:0.7,1024:0.3.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    train_sequence_length_scaling: Annotated[
        float,
        typer.Option(
            help="Cut every sequence into shorter ones: 0.25 makes four of each. No token is lost.",
            rich_help_panel=DATA,
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Which text is seen, in which order.", rich_help_panel=DATA)] = 0,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Learn from this model's predictions too, such as the original's. Of sequences longer than it was trained for it is fed "
            "windows of its own length.",
            show_default=False,
            rich_help_panel=LOSS,
        ),
    ] = None,
    kd_weight: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of the teacher in the loss; the text has the rest.", rich_help_panel=LOSS
        ),
    ] = 0.9,
    temperature: Annotated[
        float, typer.Option(help="At which teacher and student are compared.", rich_help_panel=LOSS)
    ] = 1.0,
    hidden_weight: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight of the difference between the normalised hidden states of all layers.",
            rich_help_panel=LOSS,
        ),
    ] = 0.0,
    train_slopes: Annotated[
        bool,
        typer.Option("--train-slopes", help="Train the slopes of a converted checkpoint too.", rich_help_panel=LOSS),
    ] = False,
    learning_rate: Annotated[float, typer.Option(help="The highest.", rich_help_panel=OPTIMIZER)] = 1e-3,
    warmup: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps in which it rises.", rich_help_panel=OPTIMIZER)
    ] = 0.1,
    decay: Annotated[
        Literal["cosine", "linear", "constant"],
        typer.Option(help="How the rate falls to zero after the warmup; constant keeps it.", rich_help_panel=OPTIMIZER),
    ] = "cosine",
    weight_decay: Annotated[float, typer.Option(min=0, help="Of AdamW.", rich_help_panel=OPTIMIZER)] = 0.0,
    max_gradient_norm: Annotated[
        float, typer.Option(help="Longer gradients are shortened to it.", rich_help_panel=OPTIMIZER)
    ] = 1.0,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Of the computation; weights are trained in float32.", rich_help_panel=MACHINE),
    ] = "float32",
    device: Annotated[
        Literal["auto", "cpu"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MACHINE)
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sequences that a device takes at a time; the result does not depend on it. Default: 16,384 tokens' worth.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Less memory, more computation.", rich_help_panel=MACHINE),
    ] = False,
    fsdp: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS", help="Of transformers' TrainingArguments.", show_default=False, rich_help_panel=MACHINE
        ),
    ] = None,
    deepspeed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="DeepSpeed's settings.", show_default=False, rich_help_panel=MACHINE),
    ] = None,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Log to tensorboard, wandb, …; repeatable.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between saved states, kept in DIR.training.", rich_help_panel=MACHINE)
    ] = 100,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last saved state, if there is one.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a non-empty DIR at the end, and discard an unfinished run.")
    ] = False,
    revision: options.Revision = None,
    plugin: options.Plugin = None,
    preset: options.Preset = None,
    json: options.Json = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Train a checkpoint further, so that a converted one heals, and write it as a checkpoint of the same kind."""
    given = dict(
        tokens=tokens,
        steps=steps,
        dataset=dataset,
        text_column=text_column,
        batch_tokens=batch_tokens,
        length=length,
        length_schedule=length_schedule,
        train_sequence_length_scaling=train_sequence_length_scaling,
        teacher=teacher,
        kd_weight=kd_weight,
        temperature=temperature,
        hidden_weight=hidden_weight,
        train_slopes=train_slopes,
        learning_rate=learning_rate,
        warmup=warmup,
        decay=decay,
        weight_decay=weight_decay,
        max_gradient_norm=max_gradient_norm,
        seed=seed,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        save_every=save_every,
    )
    chosen = settings(context, preset, "train", given)
    schedule = chosen.pop("length_schedule")
    parsed = None if schedule is None else parse_schedule(schedule)
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    load_plugins(plugin)
    from alibi_cli.training.run import train
    from alibi_cli.training.settings import TrainRequest

    request = TrainRequest(
        checkpoint=checkpoint,
        output=output_folder,
        text=tuple(text or ()),
        split_on=split_on,
        length_schedule=parsed,
        device=device,
        batch_size=batch_size,
        fsdp=fsdp,
        deepspeed=deepspeed,
        report_to=tuple(report_to or ()),
        resume=resume,
        force=force,
        revision=revision,
        trust_remote_code=trust_remote_code,
        command=shlex.join(["alibi", *sys.argv[1:]]),
        **chosen,
    )
    try:
        with output.progress() as update:
            report = train(request, update)
    except KeyboardInterrupt:
        output.note(f"What was saved is in {output_folder}.training; --resume continues from there.")
        raise
    if json:
        output.print_json(report.model_dump(mode="json"))
    else:
        _print(report)


def parse_schedule(text: str) -> tuple[tuple[int, float], ...]:
    """'512:0.7,1024:0.3' -> ((512, 0.7), (1024, 0.3))."""
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple((int(length), float(share)) for length, share in pairs)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list like 512:0.7,1024:0.3.") from None


def _print(report: "TrainReport") -> None:
    first, last = report.losses[0], report.losses[-1]
    teacher = "none" if report.teacher is None else f"{report.teacher}, weight {report.kd_weight:g}"
    if report.teacher_length is not None:
        teacher += f", fed {report.teacher_length} tokens at a time"
    lengths = ", ".join(f"{stage.length} for {stage.steps} steps" for stage in report.lengths)
    passes = f"{report.passes:.2f} passes over {report.text['name']}, {report.text['tokens']} tokens"
    output.print_facts(
        [
            ("written", report.output),
            ("tokens", f"{report.tokens} in {report.steps} steps of {report.batch_tokens}; {passes}"),
            ("lengths", lengths),
            ("teacher", teacher),
            ("loss", f"{first.ce:.4f} at step {first.step}, {last.ce:.4f} at step {last.step} (nats per token)"),
            ("time", f"{report.seconds:.1f} s, {report.tokens_per_second:.0f} tokens/s, {report.processes} processes"),
            (
                "verified",
                f"reloaded logits differ from the model in memory by {report.verified.max_abs_logit_difference:.1e} "
                f"(at most {report.verified.tolerance:.0e})",
            ),
            ("loads with", report.loads_with),
        ]
    )
    output.note(f"Next: {shlex.join(['alibi', 'eval', report.output, '--baseline', report.teacher or report.source])}")
