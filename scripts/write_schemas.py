"""Writes docs/schema/*.json: the JSON Schema of what every command prints with --json.

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
from alibi_cli.evaluation.tasks.run_task import TaskResults
from alibi_cli.exporting.export_report import ExportReport
from alibi_cli.models.policies import PolicyRow
from alibi_cli.models.slopes_of import SlopesReport
from alibi_cli.reporting.report import Report
from alibi_cli.training.train_report import TrainReport

FOLDER = Path(__file__).parent.parent / "docs" / "schema"
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


def render(name: str) -> str:
    schema = TypeAdapter(OUTPUTS[name]).json_schema(mode="serialization")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **schema}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in OUTPUTS:
        bring_up_to_date(FOLDER / f"{name}.json", render(name))


if __name__ == "__main__":
    main()
