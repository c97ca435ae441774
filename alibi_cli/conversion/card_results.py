"""Results in a model card: between two comments of its text, and in the `model-index` of its metadata, which the Hub reads."""

from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from alibi_cli.errors import AlibiError, first_line

BEGIN, END = "<!-- results: written by alibi report -->", "<!-- end of results -->"
METRIC = "Perplexity at {length} tokens"


def with_results(card: str, section: str, index: dict[str, Any]) -> str:
    """A card with this section and this entry of its index, in place of earlier ones; everything else stays as it is.

    Raises:
        AlibiError: its metadata cannot be read.
    """
    before, _, after = _split(card)
    text = f"{before.rstrip()}\n\n{BEGIN}\n{section.strip()}\n{END}\n"
    return _indexed(text + (f"\n{after.lstrip()}" if after.strip() else ""), [index])


def without_results(card: str) -> str:
    """As it was before them: results say nothing of a model that has changed since."""
    before, found, after = _split(card)
    return _indexed("\n\n".join(filter(None, [before.rstrip(), after.strip()])) + "\n", []) if found else card


def _split(card: str) -> tuple[str, str, str]:
    """What stands before the section, the section, and what stands after it."""
    before, begin, rest = card.partition(BEGIN)
    section, end, after = rest.partition(END)
    return (before, section, after) if begin and end else (card, "", "")


def _indexed(text: str, ours: list[dict[str, Any]]) -> str:
    block = REGEX_YAML_BLOCK.search(text)
    try:  # huggingface_hub's own ModelCard would merge the entries of an index
        data = (yaml.safe_load(block[2]) if block else None) or {}
    except yaml.YAMLError as error:
        raise AlibiError(f"The metadata of the model card cannot be read: {first_line(error)}.") from None
    if not isinstance(data, dict):
        raise AlibiError("The metadata of the model card is no table of names and values.")
    index = [*filter(None, map(_of_others, data.pop("model-index", None) or [])), *ours]
    if index:
        data["model-index"] = index
    metadata = f"---\n{yaml_dump(data).strip()}\n---\n\n" if data else ""
    body = text[block.end() :] if block else text
    return f"{metadata}{body.lstrip()}"


def _of_others(entry: dict[str, Any]) -> dict[str, Any] | None:
    """An entry of the index without what was written here."""
    first, last = METRIC.split("{length}")

    def ours(result: dict[str, Any]) -> bool:
        names = [str(metric.get("name")) for metric in result.get("metrics", [])]
        return any(name.startswith(first) and name.endswith(last) for name in names)

    kept = [result for result in entry.get("results", []) if not ours(result)]
    return {**entry, "results": kept} if kept else None
