"""Converted checkpoints in vLLM against transformers: the tables of docs/vllm.md.

    make engines                                  # makes build/vllm
    python -m benchmarks.real_model.environment   # SmolLM2-135M, for the part `real`
    ALIBI_RECORD=benchmarks/vllm.json build/vllm/bin/python -m pytest tests/vllm
    python -m benchmarks.vllm --page docs/vllm.md

The tests keep what they measure in benchmarks/vllm.json; --page puts it into the page.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.engines import markdown, put_into_page

RECORD = Path("benchmarks/vllm.json")
ATTENTION = {"CPU_ATTN": "vLLM's", "ALIBI": "alibi's"}
ROUTES = {"native": "vLLM's own model", "backend": "Transformers backend"}


def tables(record: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """{part: Markdown}"""
    made = {}
    if rows := record.get("families"):
        made["families"] = markdown(["built by", "at most", "greedy tokens", "families"], _by_size(rows))
    if rows := record.get("policies"):
        cells = [[r["case"], r["family"], ATTENTION[r["attention"]], f"{r['max']:.1e}", _tokens(r)] for r in rows]
        made["policies"] = markdown(["case", "family", "attention", "at most", "greedy tokens"], cells)
    if rows := record.get("demonstrations"):
        cells = [[r["case"], ATTENTION[r["attention"]], f"{r['max']:.1e}", _tokens(r)] for r in rows]
        made["demonstrations"] = markdown(["model", "attention", "at most", "greedy tokens"], cells)
    if rows := record.get("real"):
        cells = [
            [r["case"], ATTENTION[r["attention"]], f"{r['max']:.1e}", _tokens(r), f"{r['seconds']:.0f}"] for r in rows
        ]
        made["real"] = markdown(["policy", "attention", "at most", "greedy tokens", "seconds"], cells)
    return made


def _by_size(rows: list[dict[str, Any]]) -> list[list[str]]:
    """One row for each route and power of ten."""
    groups: dict[tuple[str, int, str], list[str]] = {}
    for r in rows:
        groups.setdefault((r["route"], math.ceil(math.log10(r["max"])), _tokens(r)), []).append(r["family"])
    return [
        [ROUTES[route], f"1e{power:03d}", tokens, ", ".join(families)]
        for (route, power, tokens), families in sorted(
            groups.items(), key=lambda each: (each[0][0], each[0][1]), reverse=True
        )
    ]


def _tokens(r: dict[str, Any]) -> str:
    return "the same" if not r["others"] else f"{r['others']} others"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm", description=__doc__)
    parser.add_argument("--page", type=Path, help="a Markdown file whose tables are to be replaced")
    options = parser.parse_args()
    for part, table in tables(json.loads(RECORD.read_text())).items():
        print(f"\n{part}\n\n{table}")
        if options.page is not None:
            put_into_page(options.page, part, table)


if __name__ == "__main__":
    main()
