"""Writes docs/api.md: the public names of the package, from their signatures and docstrings. `--check` compares instead.

python scripts/write_api_docs.py [--check]
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generated import bring_up_to_date

import alibi_cli
from alibi_cli.settings.keywords import in_words

DOCUMENT = Path(__file__).parent.parent / "docs" / "api.md"
HEAD = """# Python

Written from the docstrings by `make docs`. Every command of the [command line](cli.md) is a function with the same settings. It returns
a typed report with the fields that the command prints with `--json` ([results files and JSON](json.md)).

```python
import alibi_cli as alibi
```
"""
GROUPS = {
    "Verbs": (
        *("convert", "plan", "verify", "export", "calibrate", "train", "evaluate", "evaluate_task", "load_results"),
        *("inspect_heads", "inspect_slopes", "inspect_policies", "bench_attention"),
    ),
    "Progress and errors": ("Progress", "AlibiError", "UsageError"),
    "Models in memory": ("apply_alibi", "get_slopes"),
    "Modules for your own model": (
        *(
            "AlibiPositionalBias",
            "LearnedAlibiPositionalBias",
            "get_biases",
            "AlibiMultiHeadAttention",
            "KeyValueCache",
        ),
    ),
    "Plug-ins": ("policy_registry", "PolicyRegistry", "register_task", "register_attention", "build_attention"),
}
OTHERS = "Names of other implementations"
SECTION = re.compile(r"^(Args|Raises|Returns|Example):$", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", re.MULTILINE | re.DOTALL)


def groups() -> dict[str, tuple[str, ...]]:
    """Every public name once; those that no group names come last."""
    grouped = {name for names in GROUPS.values() for name in names}
    return {**GROUPS, OTHERS: tuple(name for name in vars(alibi_cli)["_HOME"] if name not in grouped)}


def render() -> str:
    parts = [HEAD]
    for title, names in groups().items():
        parts.append(f"## {title}\n")
        for name in names:
            parts += [f"### {name}\n", *_entry(name, getattr(alibi_cli, name))]
    return "\n".join(parts)


def _entry(name: str, found: Any) -> Iterator[str]:
    callable_ = callable(found) and not (isinstance(found, type) and issubclass(found, Exception))
    defaults = {}
    if callable_ and name != "policy_registry":
        signature = inspect.signature(found)
        defaults = {p.name: p.default for p in signature.parameters.values()}
        yield f"```text\n{name}{_shown(signature)}\n```\n"
    intro, sections = _parsed(inspect.getdoc(found) or "")
    yield f"{intro}\n"
    for title, entries in sections.items():
        if title == "Args":
            rows = [f"| `{key}` | {_escaped(text)}{_default(defaults, key)} |" for key, text in entries]
            yield "| argument | |\n|---|---|\n" + "\n".join(rows) + "\n"
        else:
            yield f"{title}:\n\n" + "\n".join(f"- `{key}`: {_escaped(text)}" for key, text in entries) + "\n"


def _shown(signature: inspect.Signature) -> str:
    """Names in their order; settings, which the table lists, as …"""
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    parts = [p.name if p.default is inspect.Parameter.empty else f"{p.name}={_value(p.default)}" for p in own]
    if len(keywords) > 4:
        parts += ["*", "…"]
    elif keywords:
        parts += ["*", *(f"{p.name}={_value(p.default)}" for p in keywords)]
    returns = in_words(signature.return_annotation)
    plain = signature.return_annotation not in (inspect.Signature.empty, None) and "~" not in returns
    return f"({', '.join(parts)})" + (f" -> {returns.split('.')[-1]}" if plain else "")


def _value(value: Any) -> str:
    return "…" if isinstance(value, type) or callable(value) else repr(value)


def _default(defaults: dict[str, Any], name: str) -> str:
    value = defaults.get(name, inspect.Parameter.empty)
    return "" if value in (inspect.Parameter.empty, None, ()) else f" Default: `{value!r}`."


def _parsed(doc: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """The text, and the entries of its sections."""
    intro, *rest = SECTION.split(doc)
    sections = {}
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        sections[title] = [(key, " ".join(text.split())) for key, text in ENTRY.findall(f"{body.strip(chr(10))}\n")]
    return _escaped(intro.strip()), sections


def _escaped(text: str) -> str:
    """What is no code, with the characters that Markdown or a table would read as its own."""
    parts = text.split("`")
    return "`".join(part if index % 2 else re.sub(r"([|*<])", r"\\\1", part) for index, part in enumerate(parts))


def main() -> None:
    bring_up_to_date(DOCUMENT, render())


if __name__ == "__main__":
    main()
