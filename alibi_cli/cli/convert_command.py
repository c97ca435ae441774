"""alibi convert, and the words for a conversion that `alibi inspect plan` shares."""

import shlex
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alibi_cli.cli import interrupts, options, output
from alibi_cli.names import counted, first_tokens, short_text
from alibi_cli.settings.conversion import ConvertSettings
from alibi_cli.slopes import is_per_layer, layers_of

if TYPE_CHECKING:
    from alibi_cli.conversion.convert_report import ConvertReport, PlannedCalibration, PlanReport

EXAMPLES = """Examples:\n
  alibi convert gpt2 --dry-run\n
  alibi convert gpt2 -o gpt2-alibi --max-sequence-length 8192\n
  alibi convert gpt2 -o gpt2-alibi --slopes calibrated --calibration-text corpus.txt\n
  alibi convert HuggingFaceTB/SmolLM2-135M --policy add --slopes calibrated\n
  alibi convert ./my-llama -o ./my-llama-alibi --slopes slopes.json --json"""


@options.takes(ConvertSettings)
def command(
    settings: ConvertSettings,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and touch nothing.")] = False,
    preset: options.Preset = None,
    json: options.Json = False,
) -> None:
    """Write MODEL with ALiBi, instead of its positional encoding or beside it, as a checkpoint that transformers can load."""
    from alibi_cli.conversion.convert import kept, run_convert, run_plan

    target = settings.target
    interrupts.leaves_output(target, lambda: kept(target) if settings.calibrated else None)
    with output.progress() as watch:
        if dry_run:
            planned = run_plan(settings, watch)
        else:
            report = run_convert(settings, watch)
    if dry_run:
        print_plan(planned, json)
        return
    if json:
        output.print_json(report)
    else:
        _print_report(report)
    _print_remarks(report)
    if not json:
        name = Path(report.output).name or f"{Path(report.source).name}-alibi"
        output.note(f"Publish: {shlex.join(['hf', 'upload', f'YOUR-NAME/{name}', report.output])}")
        output.note(f"Next: {shlex.join(_next(report))}")


def print_plan(plan: "PlanReport", json: bool) -> None:
    """The plan as JSON or as facts."""
    if json:
        output.print_json(plan)
        return
    occupied = " (exists and is not empty: --force would replace it)" if plan.output_occupied else ""
    files, tensors = plan.side_files, plan.tensors
    output.print_facts(
        [
            ("source", f"{plan.source}" + (f" at {plan.source_commit}" if plan.source_commit else "")),
            ("output", f"{plan.output}{occupied}"),
            ("family", f"{plan.base_model_type} ({plan.mechanism}) -> {plan.model_type}"),
            ("policy", plan.policy_name),
            ("slopes", f"{plan.slopes_scheme}{_shape(plan.slopes)}"),
            ("sinks", "chosen by calibration" if plan.sinks is None else _sinks(plan.sinks)),
            *([] if plan.calibration is None else [("calibration", _to_calibrate(plan.calibration))]),
            ("length", f"{plan.trained_length} trained, {plan.max_sequence_length} declared"),
            ("tensors kept", f"{tensors.copied} of {plan.n_tensors}, byte for byte"),
            ("tensors dropped", ", ".join(tensors.dropped) or "none"),
            ("tensors added", ", ".join(tensors.added) or "none"),
            *([("tensors changed", ", ".join(tensors.changed))] if tensors.changed else []),
            ("side files", ", ".join([*files.carried, *(f"{name} (edited)" for name in files.edited)]) or "none"),
            ("left behind", ", ".join(files.left_behind) or "none"),
            (
                "bytes to write",
                f"{output.format_bytes(plan.bytes_to_write)}; {output.format_bytes(plan.free_bytes)} free",
            ),
            ("loads with", plan.loads_with),
        ]
    )


def _to_calibrate(planned: "PlannedCalibration") -> str:
    windows = counted(planned.passes, "window")
    return f"{planned.tokens:,} tokens of {short_text(', '.join(planned.text))} in {windows} of up to {planned.lengths[-1]:,}"


def _print_report(report: "ConvertReport") -> None:
    verified = "not verified (--no-verify)"
    if report.verified is not None:
        difference, tolerance = report.verified.max_abs_logit_difference, report.verified.tolerance
        verified = f"reloaded logits differ from the surgery in memory by {difference:.1e} (at most {tolerance:.0e})"
    tensors = report.tensors
    output.print_facts(
        [
            ("written", f"{report.output}, {output.format_bytes(report.bytes_written)} in {report.seconds:.1f} s"),
            ("family", f"{report.base_model_type} -> {report.model_type}"),
            ("policy", report.policy_name),
            ("slopes", f"{report.slopes_scheme}{_shape(report.slopes)}{_extent(report.slopes, report.offsets)}"),
            ("sinks", _sinks(report.sinks)),
            (
                "tensors",
                f"{tensors.copied} kept, {len(tensors.dropped)} dropped, {len(tensors.added)} added"
                + (f", {len(tensors.changed)} changed" if tensors.changed else ""),
            ),
            *_calibrated(report.calibration),
            ("verified", verified),
            ("loads with", report.loads_with),
        ]
    )


def _print_remarks(report: "ConvertReport") -> None:
    """What should be read whoever reads the rest."""
    if "own_bias" in report.mechanism:
        output.note(
            f"A {report.base_model_type} has ALiBi already; only its slopes and the declared length were changed."
        )
    if report.better is not None:
        words = [word for name, value in report.better.items() for word in (options.option_of(name), value)]
        better = f" Better: {shlex.join(['alibi', 'convert', report.source, *words])}" if words else ""
        output.note("A pretrained model usually loses most of its quality to slopes it was not trained with." + better)


def _next(report: "ConvertReport") -> list[str]:
    """A command that this machine can run."""
    words, found = ["alibi", "eval", report.output, "--baseline", report.source], report.suggestion
    if found is None:
        return ["alibi", "verify", report.output]
    lengths = found.lengths if len(found.lengths) < 3 else [f"{found.lengths[0]}:{found.lengths[-1]}"]
    words += ["--lengths", ",".join(map(str, lengths))]
    words += ["--arms", ",".join(found.arms)] if found.arms else []
    return words if found.max_segments is None else [*words, "--max-segments", str(found.max_segments)]


def _flat(values: list[Any]) -> list[float]:
    return [each for row in layers_of(values) for each in row]


def _shape(slopes: list[Any] | None) -> str:
    """8 heads, or 4 layers of 8 heads."""
    if slopes is None:
        return ""
    layered = is_per_layer(slopes)
    return f", {len(slopes)} layers of {len(slopes[0])} heads" if layered else f", {len(slopes)} heads"


def _extent(slopes: list[Any], offsets: list[Any] | None) -> str:
    """The range of slopes, and where the bias begins."""
    flat = _flat(slopes)
    text = f": {min(flat):.2g} to {max(flat):.2g}, median {statistics.median(flat):.2g}"
    if offsets is not None:
        text += f", from a distance of {statistics.median(_flat(offsets)):,.0f} tokens on"
    return text


def _sinks(n: int) -> str:
    return first_tokens(n) if n else "none"


def _calibrated(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The lines about a calibration."""
    if record is None:
        return []
    text = short_text(record["text"]["name"])
    length = f"up to {record['up_to']:,}: " if "up_to" in record else ""  # not in records of 0.1.0
    found = [("calibrated", f"{length}{record['tokens']:,} tokens of {text} in {record['seconds']:.0f} s")]
    kl, unseen = record["kl_nats_per_token"], "nats per token, text that had no part in it"
    if "press" in kl:
        learned = f"Press's slopes {kl['press']:.3f}, look-back {kl['look_back']:.3f}"
        if record["method"] != "look-back":
            learned += f", {record['method']} {kl['end']:.3f}"
        if "grid" in kl:
            learned += f", on Press's grid (max_bias {record['max_bias']:.3g}) {kl['grid']:.3f}"
        found.append(("KL to original", f"{learned} ({unseen})"))
    elif kl:
        learned = "; ".join(
            f"at {length:,} {before:.4f}, distilled {kl['end'][length]:.4f}" for length, before in kl["start"].items()
        )
        found.append(("KL to teacher", f"{learned} ({unseen})"))
    return found
