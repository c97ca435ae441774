"""alibi eval"""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alibi_cli.cli import options, output, tasks
from alibi_cli.cli.plugins import load_plugins
from alibi_cli.cli.presets import settings
from alibi_cli.cli.results import print_results
from alibi_cli.errors import EXIT_FAILED

EXAMPLES = """Examples:\n
  alibi eval --lengths 512,1024,2048\n
  alibi eval gpt2-alibi --baseline gpt2 --lengths 512:8192 --output gpt2.json --plot gpt2.png\n
  alibi eval MODEL --lengths 1024,4096 --text book.txt --protocol sliding --stride 256\n
  alibi eval MODEL --task passkey --lengths 512:4096\n
  torchrun --nproc-per-node 8 -m alibi_cli eval MODEL --lengths 4096,32768"""

DEFAULT_MODEL = "demo-gpt2"


def command(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Folders or Hub names. Default: the embedded demo-gpt2.", show_default=False
        ),
    ] = None,
    lengths: Annotated[
        str,
        typer.Option(metavar="L,L,…|A:B", help="Sequence lengths in tokens: a list, or every doubling from A to B."),
    ] = "512,1024,2048",
    task: Annotated[
        str | None,
        typer.Option(
            metavar="passkey|listops",
            help="Measure accuracy on a generated long-range task instead of perplexity.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Items of a --task per length and depth. Default: the task's own.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which items of a --task.")] = 0,
    attention: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run a --task on this registered attention backend instead of the converted model's own; auto chooses one.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say which backend --attention auto chooses, and why.", show_default=False)
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL[:ARM]",
            help="Compare every MODEL with this one and its arms, or with one arm of it, on the same tokens.",
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="ARM,ARM,…|none",
            help="What an unconverted model can do beyond its trained length, as rows of its own: truncated, window, window+sinks, "
            "window:N, window+sinks:N, linear, dynamic, yarn. Default: truncated.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        Literal["fixed-target", "non-overlapping", "sliding", "lm-eval"],
        typer.Option(
            help="Which tokens are scored: the same last K of every segment; all, in separate windows; all, in windows that advance by S; "
            "all, as lm-evaluation-harness does it."
        ),
    ] = "fixed-target",
    targets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="K of fixed-target. Default: 256, or half the shortest length, that of the truncated arm included.",
            show_default=False,
        ),
    ] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="S of sliding.", show_default=False)] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Score this file; repeatable, one document each.", show_default=False),
    ] = None,
    split_on: Annotated[
        Literal["file", "blank-line"], typer.Option(help="What separates documents in --text files.")
    ] = "file",
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="python-docs, or PATH:CONFIG:SPLIT of a dataset. Default: python-docs.",
            show_default=False,
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="The dataset's column that holds the text.")] = "text",
    max_documents: Annotated[
        int | None, typer.Option(min=1, help="Take only the first N documents.", show_default=False)
    ] = None,
    max_segments: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score only about N segments of the longest length, spread over the documents.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows per batch. Default: by a budget of tokens.", show_default=False)
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE.json", help="Write results there, after every row.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw perplexity by length: .png, .svg or .pdf.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that --output already has.")] = False,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:1, …; split: one model over all GPUs. auto: a GPU if there is one; split if the model needs it."
        ),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "float64"],
        typer.Option(help="auto: float32 on a CPU, the checkpoint's own elsewhere."),
    ] = "auto",
    revision: options.Revision = None,
    plugin: options.Plugin = None,
    preset: options.Preset = None,
    json: options.Json = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure perplexity, or accuracy on a task, at every length, with intervals."""
    tasks.check_options(context, task)
    if task is not None:
        check_files(output_file, None, False)
        tasks.run(
            json,
            verbose,
            task=task,
            models=list(dict.fromkeys(models or [DEFAULT_MODEL])),
            lengths=options.parse_lengths(lengths),
            samples=samples,
            seed=seed,
            attention=attention,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            output=output_file,
            command=shlex.join(["alibi", *sys.argv[1:]]),
        )
        return
    given = dict(
        lengths=lengths,
        arms=arms,
        protocol=protocol,
        targets=targets,
        stride=stride,
        dataset=dataset,
        text_column=text_column,
        max_documents=max_documents,
        max_segments=max_segments,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    chosen = settings(context, preset, "eval", given)
    parsed = options.parse_lengths(chosen.pop("lengths"))
    check_files(output_file, plot, resume)

    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    load_plugins(plugin)
    from alibi_cli.evaluation.arms import parse_arms, split_arm
    from alibi_cli.evaluation.processes import launched
    from alibi_cli.evaluation.results import few_documents
    from alibi_cli.evaluation.run import Request, evaluate
    from alibi_cli.evaluation.text import load_text

    column, n_documents, source = (chosen.pop(key) for key in ("text_column", "max_documents", "dataset"))
    first = [split_arm(baseline)[0]] if baseline else []
    names = list(dict.fromkeys([*first, *(models or [DEFAULT_MODEL])]))
    asked = chosen.pop("arms")
    with launched(output_file) as processes:
        request = Request(
            models=names,
            lengths=parsed,
            baseline=baseline,
            arms=None if asked is None else parse_arms(asked),
            output=output_file,
            resume=resume,
            revision=revision,
            trust_remote_code=trust_remote_code,
            text=processes.from_first(
                lambda: load_text(source, text or (), split_on=split_on, column=column, max_documents=n_documents)
            ),
            command=shlex.join(["alibi", *sys.argv[1:]]),
            **chosen,
        )
        with output.progress() as update:
            results, record = evaluate(request, update, processes)
    if json:
        output.print_json(results.model_dump(mode="json"))
    else:
        print_results(results)
    if plot is not None and processes.first:
        from alibi_cli.evaluation.plot import draw

        draw(plot, results, record)
    if (few := few_documents(record)) is not None:
        output.note(f"Only {few} documents were scored: the intervals are rough. More text would narrow them.")
    if any(row.status in ("out_of_memory", "non_finite") for row in results.rows):
        raise typer.Exit(EXIT_FAILED)


def check_files(output_file: Path | None, plot: Path | None, resume: bool) -> None:
    """Refuses, before any work, what could not be written after it."""
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{plot} must end in .png, .svg or .pdf.", param_hint="--plot")
    if output_file is not None and output_file.suffix != ".json":  # r-0.5 and r-0.6 would share r-0.nll.safetensors
        raise typer.BadParameter(f"{output_file} must end in .json.", param_hint="--output")
    if resume and output_file is None:
        raise typer.BadParameter("it continues the file that --output names.", param_hint="--resume")
    if plot is not None and plot == output_file:
        raise typer.BadParameter("it names the same file as --output.", param_hint="--plot")
    for path, option in ((output_file, "--output"), (plot, "--plot")):
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            raise typer.BadParameter(
                f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'its folder does not exist'}.",
                param_hint=option,
            )
