"""alibi export"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alibi_cli.cli import options, output

if TYPE_CHECKING:
    from alibi_cli.exporting.report import ExportReport

EXAMPLES = """Examples:\n
  alibi export gpt2-alibi -o gpt2-alibi.gguf\n
  alibi export gpt2-alibi -o gpt2-alibi-q8.gguf --dtype q8_0\n
  alibi eval gpt2-alibi.gguf --baseline gpt2-alibi"""


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A converted checkpoint.", show_default=False)],
    file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.gguf", help="The file to write.", show_default=False)
    ],
    to: Annotated[
        Literal["gguf"], typer.Option(help="The format: gguf, which llama.cpp and what is built on it run.")
    ] = "gguf",
    dtype: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"] | None,
        typer.Option(
            help="Type of the matrices; vectors stay in f32. Default: the checkpoint's own type.", show_default=False
        ),
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Allow llama.cpp's tanh GELU in place of the exact GELU of some families."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.gguf, once the new one is verified.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare tokens and log-probabilities with transformers before FILE.gguf gets its name: by llama.cpp if it is installed.",
        ),
    ] = True,
    json: options.Json = False,
) -> None:
    """Write a converted checkpoint as a GGUF file, which a stock llama.cpp runs. Needs Press et al.'s slopes, in any order."""
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    from alibi_cli.exporting.run import engine_hint, export

    with output.progress("bytes") as update:
        report = export(
            folder, file, to=to, dtype=dtype, approximate=approximate, force=force, verify=verify, progress=update
        )
    if json:
        output.print_json(report.model_dump())
        return
    _print(report)
    if verify and (hint := engine_hint()) is not None:
        output.note(hint)


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
