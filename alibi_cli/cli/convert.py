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
  alibi convert HuggingFaceTB/SmolLM2-135M --policy add --slopes calibrated\n
  alibi convert ./my-llama -o ./my-llama-alibi --slopes slopes.json --json"""


def command(
    context: typer.Context,
    model: options.Model,
    output_folder: options.Output = None,
    policy: options.Policy = "replace",
    slopes: options.SlopesFrom = "press",
    sinks: options.Sinks = None,
    offset: options.Offset = None,
    calibrate: options.Calibrate = None,
    calibration_text: options.CalibrationText = None,
    calibration_tokens: options.CalibrationTokens = None,
    calibration_length: options.CalibrationLength = None,
    horizon: options.Horizon = None,
    grid: options.Grid = None,
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
    """Write MODEL with ALiBi, instead of its positional encoding or beside it, as a checkpoint that transformers can load."""
    given = dict(
        policy=policy,
        slopes=slopes,
        sinks=sinks,
        offset=offset,
        calibrate=calibrate,
        calibration_tokens=calibration_tokens,
        calibration_length=calibration_length,
        horizon=horizon,
        grid=grid,
        max_bias=max_bias,
        max_sequence_length=max_sequence_length,
        verify=verify,
    )
    chosen = settings(context, preset, "convert", given)
    calibration.check_options(chosen, calibration_text or [])
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
    if chosen["slopes"] == "calibrated":
        calibration.forget(plan.output)
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
    length, policy = chosen["max_sequence_length"], chosen["policy"]
    if chosen["slopes"] != "calibrated":
        return make_plan(
            source, target, chosen["slopes"], chosen["max_bias"], length, policy, chosen["sinks"], chosen["offset"]
        )
    plan = make_plan(source, target, calibration.planned(source, chosen), None, length, policy, chosen["sinks"])
    if dry_run:
        return plan
    from alibi_cli.checkpoint.partial import check_output

    check_output(target, source.folder, force)  # before minutes of work, not after
    learned = calibration.run(source, target, chosen, calibration_text or [])
    return make_plan(source, target, learned, None, length, policy)


def print_plan(plan: "Plan", json: bool) -> None:
    """The plan as JSON or as facts; used by `inspect plan` too."""
    summary = plan.summary()
    if json:
        output.print_json(summary)
        return
    source = plan.source

    def names(paths: list[Path]) -> list[str]:
        return sorted(path.relative_to(source.folder).as_posix() for path in paths)

    output.print_facts(
        [
            ("source", f"{source.name}" + (f" at {source.commit}" if source.commit else "")),
            ("output", f"{plan.output}{plan.output_state}"),
            ("family", f"{plan.family} ({plan.mechanism}) -> {plan.config['model_type']}"),
            ("policy", plan.policy),
            ("slopes", f"{plan.slopes_scheme}, {plan.slopes_shape}"),
            ("sinks", "chosen by calibration" if summary["sinks"] is None else calibration.sinks_in_words(plan.sinks)),
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
            f"A {report.base_model_type} has ALiBi already; only its slopes and the declared length were changed."
        )
    verified = "not verified (--no-verify)"
    if report.verified is not None:
        difference, tolerance = report.verified.max_abs_logit_difference, report.verified.tolerance
        verified = f"reloaded logits differ from the surgery in memory by {difference:.1e} (at most {tolerance:.0e})"
    output.print_facts(
        [
            ("written", f"{report.output}, {output.format_bytes(report.bytes_written)} in {report.seconds:.1f} s"),
            ("family", f"{report.base_model_type} -> {report.model_type}"),
            ("policy", report.policy_name),
            ("slopes", f"{report.slopes_scheme}, {plan.slopes_shape}{calibration.summary(plan.slopes, plan.offsets)}"),
            ("sinks", calibration.sinks_in_words(report.sinks)),
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
    _warn_of_plain_surgery(report, plan)
    following = ["alibi", "eval", report.output, "--baseline", report.source, "--lengths", lengths]
    output.note(f"Next: {shlex.join(following)}")


def _warn_of_plain_surgery(report: "ConvertReport", plan: "Plan") -> None:
    """Press's slopes in place of the positions of a model that was trained with them."""
    if (
        report.policy_name != "replace"
        or not report.slopes_scheme.startswith("press")
        or "own_bias" in report.mechanism
    ):
        return
    from alibi_cli.families import family_of, family_policies, shows_scores

    family = family_of(plan.family)
    kept, calibrated = family in family_policies("add"), not plan.source.config.get("is_encoder_decoder")
    kept = kept and not (calibrated and not shows_scores(family, "add"))
    better = [*(["--policy", "add"] if kept else []), *(["--slopes", "calibrated"] if calibrated else [])]
    output.note(
        "A pretrained model usually loses most of its quality to slopes it was not trained with (docs/results.md)."
        + (f" Better: {shlex.join(['alibi', 'convert', report.source, *better])}" if better else "")
    )
