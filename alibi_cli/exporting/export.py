"""The verb `export`: a converted checkpoint as a file for another engine."""

import time
from pathlib import Path
from typing import Any

from alibi_cli.engines.gguf_package import gguf_package
from alibi_cli.engines.llama_cpp import engine_version
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.exporting.export_report import ExportReport
from alibi_cli.exporting.gguf_file import Header, write_file
from alibi_cli.exporting.obstacles import check_config, family_of_export
from alibi_cli.exporting.tensors import Builder
from alibi_cli.exporting.tokenizer import vocabulary_of
from alibi_cli.exporting.verification import verify as verify_file
from alibi_cli.files.atomic import new_file
from alibi_cli.files.lock import exclusive
from alibi_cli.models.families import family_of
from alibi_cli.models.language_model import ModelInfo, describe
from alibi_cli.models.loading import load_tokenizer
from alibi_cli.models.source import open_source
from alibi_cli.names import CONVERTED
from alibi_cli.progress import Watch, notes, steps
from alibi_cli.settings.files_for_engines import ExportSettings, GgufType
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.on_disk import is_converted, not_converted
from alibi_cli.settings.presets import settings_of

STORED: dict[str, GgufType] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@takes_settings(ExportSettings)
def export(folder: str | Path, output: str | Path, *, progress: Watch | None = None, **settings: Any) -> ExportReport:
    """Writes a converted checkpoint as one GGUF file, which a stock llama.cpp runs.

    Args:
        folder: a converted checkpoint. Its slopes must be Press et al.'s, in any order.
        output: a file, which has its name when llama.cpp, if it is installed, has computed the same from it.
        progress: is called with each `Progress`.
        settings: see `ExportSettings`.

    Raises:
        UsageError: the file cannot hold the checkpoint, or is in the way.
        AlibiError: it cannot be written, or computes something else.
    """
    return run_export(settings_of(ExportSettings, {"folder": folder, "output": output, **settings}), progress)


def run_export(settings: ExportSettings, progress: Watch | None = None) -> ExportReport:
    """`export`, by settings."""
    started, source_name, output = time.monotonic(), str(settings.folder), settings.output.expanduser()
    report = steps(progress, "bytes")
    gguf_package()
    source = open_source(source_name)
    if not is_converted(source.raw_config):
        raise not_converted(source_name)
    name = family_of(source.raw_config["model_type"].removeprefix(CONVERTED))
    family, info = family_of_export(name), describe(source_name)
    config = _config(info)
    approximations = check_config(name, family, config, settings.approximate)
    shapes = {each: stored.shape for each, (_, stored) in source.tensors.items()}
    builder = Builder(family, config, shapes)
    recipes = builder.build()
    used = {each for recipe in recipes.values() for each in recipe.sources}
    if missing := used - shapes.keys():
        raise AlibiError(f"{source_name} lacks tensors: {', '.join(sorted(missing)[:3])} …")
    if left := shapes.keys() - used:
        raise UsageError(
            f"The file has no place for {len(left)} tensors of {source_name}: {', '.join(sorted(left)[:3])} …",
        )
    tokenizer = load_tokenizer(info)
    vocabulary = vocabulary_of(tokenizer, recipes["token_embd.weight"].shape(shapes)[0])
    kind = settings.dtype or STORED.get(info.stored_dtype, "f32")
    length = int(config.alibi_max_sequence_length or config.max_position_embeddings)
    header = Header(source, family, config, builder.max_bias, length, vocabulary)
    try:
        with exclusive(output.resolve()), new_file(output) as temporary:
            write_file(temporary, source, header, recipes, kind, lambda done, of: report("Writing", done, of))
            report("Comparing with transformers", 0, 1)
            verified = (
                verify_file(temporary, info, tokenizer, family.architecture, kind, length) if settings.verify else None
            )
            size = temporary.stat().st_size
            if settings.verify and engine_version() is None:
                notes(progress)("pip install 'alibi-cli[gguf]' brings llama.cpp, which verifies the file.")
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


def _config(info: ModelInfo) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from alibi_cli.runtime.modeling_alibi import config_class_for

    return config_class_for(CONFIG_MAPPING[info.base_type]).from_pretrained(info.files)
