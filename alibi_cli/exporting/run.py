"""Writes a converted checkpoint for another engine."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from alibi_cli.checkpoint.lock import exclusive
from alibi_cli.checkpoint.partial import new_file
from alibi_cli.checkpoint.source import open_source
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.models import ModelInfo, describe, load_tokenizer
from alibi_cli.exporting.engine import engine_version
from alibi_cli.exporting.gguf_file import Header, gguf_package, write_file
from alibi_cli.exporting.obstacles import check_config, family_of_export
from alibi_cli.exporting.report import Dtype, ExportReport
from alibi_cli.exporting.tensors import Builder
from alibi_cli.exporting.tokenizer import vocabulary_of
from alibi_cli.exporting.verification import verify as verify_file
from alibi_cli.families import CONVERTED, family_of

Progress = Callable[[str, float, float], None]
STORED = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def export(
    folder: str | Path,
    file: str | Path,
    *,
    to: str = "gguf",
    dtype: Dtype | None = None,
    approximate: bool = False,
    force: bool = False,
    verify: bool = True,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the converted checkpoint `folder` as one GGUF file, which a stock llama.cpp runs.

    dtype: of matrices; None for the checkpoint's own. approximate: allow llama.cpp's tanh GELU in place of the exact one. force: replace a
    file. progress(what, done, of). The file has its name when llama.cpp, if it is installed, has computed the same from it.

    Raises:
        AlibiError: the file cannot hold the checkpoint, is in the way, cannot be written, or computes something else.
    """
    started, source_name, output = time.monotonic(), str(folder), Path(file).expanduser()
    report = progress or (lambda what, done, of: None)
    _check_arguments(to, output, dtype, force)
    gguf_package()
    source = open_source(source_name)
    model_type = str(source.config.get("model_type"))
    if not model_type.startswith(CONVERTED):
        raise AlibiError(
            f"{source_name} is no converted checkpoint.", f"Convert it first: alibi convert {source_name}", EXIT_USAGE
        )
    name = family_of(model_type.removeprefix(CONVERTED))
    family, info = family_of_export(name), describe(source_name)
    config = _config(info)
    approximations = check_config(name, family, config, approximate)
    shapes = {each: stored.shape for each, (_, stored) in source.tensors.items()}
    builder = Builder(family, config, shapes)
    recipes = builder.build()
    used = {each for recipe in recipes.values() for each in recipe.sources}
    if missing := used - shapes.keys():
        raise AlibiError(f"{source_name} lacks tensors: {', '.join(sorted(missing)[:3])} …")
    if left := shapes.keys() - used:
        raise AlibiError(
            f"The file has no place for {len(left)} tensors of {source_name}: {', '.join(sorted(left)[:3])} …",
            exit_code=EXIT_USAGE,
        )
    tokenizer = load_tokenizer(info)
    vocabulary = vocabulary_of(tokenizer, recipes["token_embd.weight"].shape(shapes)[0])
    kind: Dtype = dtype or STORED.get(info.stored_dtype, "f32")  # type: ignore[assignment]
    length = int(config.alibi_max_sequence_length or config.max_position_embeddings)
    header = Header(source, family, config, builder.max_bias, length, vocabulary)
    try:
        with exclusive(output.resolve()), new_file(output) as temporary:
            write_file(temporary, source, header, recipes, kind, lambda done, of: report("Writing", done, of))
            report("Comparing with transformers", 0, 1)
            verified = verify_file(temporary, info, tokenizer, family.architecture, kind, length) if verify else None
            size = temporary.stat().st_size
    except OSError as error:
        raise AlibiError(f"Cannot write {output}: {error.strerror or error}.", "Nothing has the final name.") from error
    return ExportReport(
        output=str(output),
        source=source_name,
        base_model_type=name,
        architecture=family.architecture.name,
        max_bias=builder.max_bias,
        heads_permuted=builder.permuted,
        approximations=approximations,
        dtype=kind,
        context_length=length,
        tokenizer=vocabulary.name,
        tensors=len(recipes),
        bytes_written=size,
        seconds=round(time.monotonic() - started, 3),
        verified=verified,
    )


def _check_arguments(to: str, output: Path, dtype: str | None, force: bool) -> None:
    if to != "gguf":
        raise AlibiError(f"There is no export to {to!r}; there is gguf.", exit_code=EXIT_USAGE)
    if dtype is not None and dtype not in get_args(Dtype):
        raise AlibiError(f"dtype is {', '.join(get_args(Dtype))}, not {dtype!r}.", exit_code=EXIT_USAGE)
    if output.suffix != ".gguf":
        raise AlibiError(f"{output} must end in .gguf.", exit_code=EXIT_USAGE)
    if output.is_dir() or output.is_symlink() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "is a link" if output.is_symlink() else "lies in no folder"
        raise AlibiError(f"{output} {what}.", exit_code=EXIT_USAGE)
    if output.exists() and not force:
        raise AlibiError(f"{output} exists.", "Choose another file, or replace it with --force.", EXIT_USAGE)


def _config(info: ModelInfo) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from alibi_cli.runtime.modeling_alibi import config_class_for

    return config_class_for(CONFIG_MAPPING[info.model_type.removeprefix(CONVERTED)]).from_pretrained(info.folder)


def engine_hint() -> str | None:
    """What would verify a file, where nothing can."""
    return None if engine_version() else "pip install 'alibi-cli[gguf]' brings llama.cpp, which verifies the file."
