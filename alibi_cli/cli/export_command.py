"""alibi export"""

from typing import TYPE_CHECKING

from alibi_cli.cli import interrupts, options, output
from alibi_cli.settings.files_for_engines import ExportSettings

if TYPE_CHECKING:
    from alibi_cli.exporting.export_report import ExportReport

EXAMPLES = """Examples:\n
  alibi export gpt2-alibi -o gpt2-alibi.gguf\n
  alibi export gpt2-alibi -o gpt2-alibi-q8.gguf --dtype q8_0\n
  alibi eval gpt2-alibi.gguf --baseline gpt2-alibi"""


@options.takes(ExportSettings)
def command(settings: ExportSettings, json: options.Json = False) -> None:
    """Write a converted checkpoint as a GGUF file, which a stock llama.cpp runs. Needs Press et al.'s slopes, in any order."""
    from alibi_cli.exporting.export import run_export

    interrupts.leaves_output(settings.output)
    with output.progress() as watch:
        report = run_export(settings, watch)
    if json:
        output.print_json(report)
    else:
        _print(report)


def _print(report: "ExportReport") -> None:
    order = ", heads in another order" if report.heads_permuted else ""
    output.print_facts(
        [
            ("written", f"{report.output}, {output.format_bytes(report.bytes_written)} in {report.seconds:.1f} s"),
            ("family", f"{report.base_model_type} -> {report.architecture}"),
            ("slopes", f"press, max_bias {report.max_bias:g}{order}"),
            ("type", report.dtype),
            *([("approximated", ", ".join(report.approximations))] if report.approximations else []),
            ("tokenizer", report.tokenizer),
            ("tensors", str(report.tensors)),
            *_verified(report),
        ]
    )


def _verified(report: "ExportReport") -> list[tuple[str, str]]:
    found = report.verified
    if found is None:
        return [("verified", "not verified in llama.cpp")]
    lines = [
        (
            "verified",
            f"log-probabilities of {found.tokens} tokens differ from transformers by at most {found.max_abs_logprob_difference:.1e}, "
            f"on average {found.mean_abs_logprob_difference:.1e} ({found.criterion} {found.tolerance:g} allowed)",
        )
    ]
    if found.text_characters is None:
        return [*lines, ("by", f"{found.by}; not verified in llama.cpp")]
    return [*lines, ("by", f"{found.by}, which makes the same tokens of a page of {found.text_characters} characters")]
