"""Writes docs/schema/*.json, the JSON Schema of what every command prints with --json, and docs/json.md, the same to read.

python scripts/write_schemas.py [--check]
"""

import json
from pathlib import Path
from typing import Any

from generated import bring_up_to_date
from pydantic import TypeAdapter

from alibi_cli.attention.benchmark import AttentionBenchmark
from alibi_cli.calibration.head_report import HeadReport
from alibi_cli.conversion.convert_report import ConvertReport, PlanReport
from alibi_cli.conversion.verify import Verdict
from alibi_cli.environment import EnvironmentReport
from alibi_cli.evaluation.estimate import Estimate
from alibi_cli.evaluation.results import Results
from alibi_cli.evaluation.tasks.task_results import TaskResults
from alibi_cli.exporting.export_report import ExportReport
from alibi_cli.models.policies import PolicyRow
from alibi_cli.models.slopes_of import SlopesReport
from alibi_cli.reporting.report import Report
from alibi_cli.training.train_report import TrainReport

FOLDER = Path(__file__).parent.parent / "docs" / "schema"
PAGE = FOLDER.parent / "json.md"
HEAD = """# Results files and JSON

Written from the result types by `make docs`. `--json` prints one object on stdout; `--output FILE.json` of `alibi eval` and `alibi task`
writes the same to a file. Each object has a JSON Schema, which the tests compare with what the commands print.

## The record

Beside `results.json` of an evaluation lies `results.nll.safetensors` with the loss of every scored token. Every figure in the
results file can be computed from it. Each row whose status is `ok` has its arrays, (n,), under a JSON list of model, arm and
length, a space and a name:

| array | of each scored token |
|---|---|
| `nll` | float32, its loss in nats |
| `document` | int32, which document of the text, as a place in the list of names |
| `position` | int32, which token of this document, from 0 (with `lm-eval`, whose first token is part of a document, from 1) |
| `context` | int32, how many tokens the model saw before it |
| `byte_begin`, `byte_end` | int64, where it lies in the document's text, in bytes of UTF-8 |

The last two are absent where a tokenizer does not tell them, and in files of 0.1.0. The metadata hold JSON under `record`:
`documents`, the names of all documents, and `n_bytes`, for each row the bytes that its tokens stand for. Documents and positions
are those of the whole text, whatever `--max-segments` draws. Spaces that a tokenizer drops belong to the token after them; a
character of several tokens belongs to the first, and the others begin where they end. What was changed when a file was read, such
as line ends (`normalised` in `text`), is changed in what the bytes count.

The token that surprised a model most, of a text that `--text` named:

```python
import json
from pathlib import Path
from safetensors import safe_open

with safe_open("results.nll.safetensors", "numpy") as file:
    about = json.loads(file.metadata()["record"])
    names, row = about["documents"], next(iter(about["n_bytes"]))
    nll, document, begin, end = (
        file.get_tensor(f"{row} {name}") for name in ("nll", "document", "byte_begin", "byte_end")
    )
worst = nll.argmax()
text = Path(names[document[worst]]).read_bytes()
before, token = text[: begin[worst]].decode()[-40:], text[begin[worst] : end[worst]].decode()
print(f"{row}: {nll[worst]:.4f} nats for {token!r} after {before!r} in {names[document[worst]]}")
```
"""
# Commands that are not called as their output is.
COMMANDS = {
    "plan": "alibi inspect plan --json`, `alibi convert --dry-run --json",
    **{name: f"alibi inspect {name} --json" for name in ("heads", "slopes", "policies")},
    "bench-attention": "alibi bench attention --json",
    "eval-dry-run": "alibi eval --dry-run --json",
}
OUTPUTS: dict[str, Any] = {
    "convert": ConvertReport,
    "plan": PlanReport,
    "verify": Verdict,
    "eval": Results,
    "eval-dry-run": Estimate,
    "task": TaskResults,
    "train": TrainReport,
    "report": Report,
    "export": ExportReport,
    "heads": HeadReport,
    "slopes": SlopesReport,
    "policies": dict[str, list[PolicyRow]],
    "env": EnvironmentReport,
    "bench-attention": AttentionBenchmark,
}


def schema_of(name: str) -> dict[str, Any]:
    return dict(TypeAdapter(OUTPUTS[name]).json_schema(mode="serialization"))


def render(name: str) -> str:
    schema = schema_of(name)
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **schema}, indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """A section for each command: its object, and the objects in it."""
    parts = [HEAD]
    for name in OUTPUTS:
        schema = schema_of(name)
        inner = schema.pop("$defs", {})
        parts.append(f"## {name}\n\n`{COMMANDS.get(name, f'alibi {name} --json')}` · [schema](schema/{name}.json)\n")
        parts += _object(schema)
        for title, each in inner.items():
            parts += [f"**{title}**\n", *_object(each)]
    return "\n".join(parts)


def _object(schema: dict[str, Any]) -> list[str]:
    found = [f"{_escaped(' '.join(schema['description'].split()))}\n"] if "description" in schema else []
    if "properties" in schema:
        rows = [f"| `{key}` | {_kind(value)} |" for key, value in schema["properties"].items()]
        return [*found, "\n".join(["| field | type |", "|---|---|", *rows, ""])]
    return [*found, f"{_kind(schema)[0].upper()}{_kind(schema)[1:]}.\n"]


def _kind(schema: dict[str, Any]) -> str:
    """A type in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        items = schema.get("prefixItems") or ([schema["items"]] if schema.get("items") else [])
        kinds = [kind for kind in dict.fromkeys(map(_kind, items)) if kind != "anything"]
        return f"list of {' and '.join(kinds)}" if kinds else "list"
    inner = schema.get("additionalProperties")
    return f"object of {_kind(inner)}" if kind == "object" and isinstance(inner, dict) and inner else kind


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    bring_up_to_date(PAGE, page())
    for name in OUTPUTS:
        bring_up_to_date(FOLDER / f"{name}.json", render(name))


if __name__ == "__main__":
    main()
