"""Files beside the weights that change: a tokenizer's config, and whatever names Python code, which stays behind."""

import json
from typing import Any

from alibi_cli.errors import UsageError
from alibi_cli.files.strict_json import read_json
from alibi_cli.models.source import Source

TOKENIZER_CONFIG = "tokenizer_config.json"
# In which transformers looks for the code of a repository, under this key; it may also lie in another repository.
NAMES_CODE = "auto_map"
NAMED_IN = (TOKENIZER_CONFIG, "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# Two keys of config.json that name code of the source: `auto_map` is written again, the other is left out.
OF_CONFIG = (NAMES_CODE, "custom_pipelines")
AS_IT_IS = "PreTrainedTokenizerFast"  # reads any tokenizer.json


def brings_code(source: Source) -> bool:
    """True where loading the source would ask for code that a conversion neither runs nor copies."""
    generates = any("custom_generate" in path.parts for path in source.left_behind)
    return generates or any(key in source.raw_config for key in OF_CONFIG) or bool(_naming_code(source))


def edited_files(source: Source, declared: int) -> dict[str, bytes]:
    """{side file: new content}. declared: the maximum length of the result.

    Raises:
        UsageError: only code of the source's own could read its tokenizer.
        AlibiError: one of the files cannot be read.
    """
    contents = _naming_code(source)
    edited = {name: _without_code(content) for name, content in contents.items()}
    path = source.folder / TOKENIZER_CONFIG
    before = contents.get(TOKENIZER_CONFIG) or (read_json(path) if path in source.side_files else {})
    if before or source.has_tokenizer:
        after = _tokenizer_config(source, before, declared)
        if after != before:
            edited[TOKENIZER_CONFIG] = after
    return {
        name: (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode() for name, content in edited.items()
    }


def _naming_code(source: Source) -> dict[str, dict[str, Any]]:
    """{file: its content}, of those that name code."""
    paths = [path for path in source.side_files if path.parent == source.folder and path.name in NAMED_IN]
    contents = {path.name: read_json(path) for path in paths}
    return {name: content for name, content in contents.items() if _without_code(content) != content}


def _without_code(content: dict[str, Any]) -> dict[str, Any]:
    """At any depth: a processor's config holds those of its parts."""
    return {
        key: _without_code(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if key != NAMES_CODE
    }


def _tokenizer_config(source: Source, before: dict[str, Any], declared: int) -> dict[str, Any]:
    """Two facts that the tokenizer took from the old model: its maximum length, and its class, which AutoTokenizer infers from the
    model_type of a stock model and cannot infer from a converted one."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    tokenizer = _without_code(before)
    longest = tokenizer.get("model_max_length")
    if isinstance(longest, int) and longest <= (source.trained_length or 0):
        tokenizer["model_max_length"] = declared
    inferred = TOKENIZER_MAPPING_NAMES.get(source.raw_config["model_type"])
    if "tokenizer_class" not in tokenizer and isinstance(inferred, str):
        tokenizer["tokenizer_class"] = inferred
    if NAMES_CODE not in before:
        return tokenizer
    named = tokenizer.get("tokenizer_class")
    if source.has_tokenizer and isinstance(named, str) and tokenizer_class_from_name(named) is not None:
        return tokenizer
    if source.folder / "tokenizer.json" not in source.side_files:
        raise UsageError(
            f"The tokenizer of {source.name} is Python code of its own, which is not run, and no other can read its files.",
            f"Put a tokenizer.json there, or take {TOKENIZER_CONFIG} away: the checkpoint then has no tokenizer.",
        )
    return {**tokenizer, "tokenizer_class": AS_IT_IS}
