"""alibi convert"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alibi_cli.cli import calibration, options, output
from alibi_cli.cli.plugins import load_plugins
from alibi_cli.cli.presets import settings

if TYPE_CHECKING:
    from alibi_cli.checkpoint.plan import Plan
    from alibi_cli.checkpoint.report import ConvertReport

EXAMPLES = """Examples:\n
  alibi convert gpt2 --dry-run\n
  alibi convert gpt2 -o gpt2-alibi --max-sequence-length 8192\n
  alibi convert gpt2 -o gpt2-alibi --slopes calibrated --calibration-text corpus.txt\n
  alibi convert ./my-llama -o ./my-llama-alibi --slopes slopes.json --json"""


def command(
    context: typer.Context,
    model: options.Model,
    output_folder: options.Output = None,
    slopes: options.SlopesFrom = "press",
    calibrate: options.Calibrate = "distil",
    calibration_text: options.CalibrationText = None,
    calibration_tokens: options.CalibrationTokens = 262144,
    max_bias: options.MaxBias = None,
    max_sequence_length: options.MaxSequenceLength = None,
    revision: options.Revision = None,
    plugin: options.Plugin = None,
    preset: options.Preset = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and touch nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a non-empty DIR, once the new one is verified.")
    ] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Hard-link the weight files that stay as they are, instead of copying them: whoever edits one in place, edits both.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Reload the result and compare its logits before DIR gets its name."),
    ] = True,
    json: options.Json = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write MODEL with ALiBi instead of its positional encoding, as a checkpoint that transformers can load."""
    given = dict(
        slopes=slopes,
        calibrate=calibrate,
        calibration_tokens=calibration_tokens,
        max_bias=max_bias,
        max_sequence_length=max_sequence_length,
        verify=verify,
    )
    chosen = settings(context, preset, "convert", given)
    calibration.check_options(context, chosen)
    load_plugins(plugin)
    plan = plan_for(model, output_folder, chosen, revision, dry_run, calibration_text or [], force)
    if dry_run:
        print_plan(plan, json)
        return
    from alibi_cli.checkpoint.writer import write

    with output.progress("bytes") as update:
        done = 0

        def on_bytes(n: int) -> None:
            nonlocal done
            done += n
            update("Writing", done, plan.bytes_to_write)

        report = write(
            plan,
            force=force,
            link=link,
            check=chosen["verify"],
            command=["alibi", *sys.argv[1:]],
            on_bytes=on_bytes,
            on_stage=lambda stage: update(stage, done, plan.bytes_to_write),
            warn=output.note,
        )
    if json:
        output.print_json(report.model_dump())
    else:
        _print_report(report, plan)


def plan_for(
    model: str,
    folder: Path | None,
    chosen: dict[str, Any],
    revision: str | None,
    dry_run: bool,
    calibration_text: list[Path] | None = None,
    force: bool = False,
) -> "Plan":
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    from alibi_cli.checkpoint.plan import make_plan
    from alibi_cli.checkpoint.source import open_source

    source = open_source(model, revision, read_weights=not dry_run)
    target = folder or Path(
        f"{Path(model).expanduser().resolve().name if Path(model).exists() else model.rpartition('/')[2]}-alibi"
    )
    if chosen["slopes"] != "calibrated":
        return make_plan(source, target, chosen["slopes"], chosen["max_bias"], chosen["max_sequence_length"])
    plan = make_plan(
        source, target, calibration.planned(source, chosen["calibrate"]), None, chosen["max_sequence_length"]
    )
    if dry_run:
        return plan
    from alibi_cli.checkpoint.partial import check_output

    check_output(target, source.folder, force)  # before minutes of work, not after
    learned = calibration.run(source, chosen, calibration_text or [])
    return make_plan(source, target, learned, None, chosen["max_sequence_length"])


def print_plan(plan: "Plan", json: bool) -> None:
    """The plan as JSON or as facts; used by `inspect plan` too."""
    if json:
        output.print_json(plan.summary())
        return
    source = plan.source

    def names(paths: list[Path]) -> list[str]:
        return sorted(path.relative_to(source.folder).as_posix() for path in paths)

    output.print_facts(
        [
            ("source", f"{source.name}" + (f" at {source.commit}" if source.commit else "")),
            ("output", f"{plan.output}{plan.output_state}"),
            ("family", f"{plan.family} ({plan.mechanism}) -> {plan.config['model_type']}"),
            ("slopes", f"{plan.slopes_scheme}, {plan.slopes_shape}"),
            ("length", f"{plan.trained_length} trained, {plan.max_sequence_length} promised"),
            ("tensors kept", f"{len(plan.copied)} of {len(source.tensors)}, byte for byte"),
            ("tensors dropped", ", ".join(plan.dropped) or "none"),
            ("tensors added", ", ".join(plan.added) or "none"),
            *([("tensors changed", ", ".join(sorted(plan.changed)))] if plan.changed else []),
            ("side files", ", ".join([*names(plan.carried), *(f"{name} (edited)" for name in plan.edited)]) or "none"),
            ("left behind", ", ".join(names(source.left_behind)) or "none"),
            (
                "bytes to write",
                f"{output.format_bytes(plan.bytes_to_write)}; {output.format_bytes(plan.free_bytes)} free",
            ),
            ("loads with", plan.how_it_loads),
        ]
    )


def _print_report(report: "ConvertReport", plan: "Plan") -> None:
    if "own_bias" in report.mechanism:
        output.note(
            f"A {report.base_model_type} has ALiBi already; only its slopes and the promised length were changed."
        )
    verified = "not verified (--no-verify)"
    if report.verified is not None:
        difference, tolerance = report.verified.max_abs_logit_difference, report.verified.tolerance
        verified = f"reloaded logits differ from the surgery in memory by {difference:.1e} (at most {tolerance:.0e})"
    output.print_facts(
        [
            ("written", f"{report.output}, {output.format_bytes(report.bytes_written)} in {report.seconds:.1f} s"),
            ("family", f"{report.base_model_type} -> {report.model_type}"),
            ("slopes", f"{report.slopes_scheme}, {plan.slopes_shape}"),
            (
                "tensors",
                f"{report.tensors.copied} kept, {len(report.tensors.dropped)} dropped, {len(report.tensors.added)} added"
                + (f", {len(report.tensors.changed)} changed" if report.tensors.changed else ""),
            ),
            *calibration.facts(report.calibration),
            ("verified", verified),
            ("loads with", report.loads_with),
        ]
    )
    lengths = f"{plan.trained_length}:{max(plan.trained_length, plan.max_sequence_length)}"
    following = ["alibi", "eval", report.output, "--baseline", report.source, "--lengths", lengths]
    output.note(f"Next: {shlex.join(following)}")
