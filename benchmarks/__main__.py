"""python -m benchmarks [--short] [--output FILE] [--page FILE.md] [NAME …]: measures, prints one table, writes one JSON file.

Without names: everything. In a file that the same machine wrote before, the benchmarks that are not run keep their figures.
"""

import argparse
import json
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import torch

import benchmarks
from benchmarks.claims import Results, machine, page, table


def main(arguments: list[str] | None = None) -> None:
    found = {
        name: import_module(f"benchmarks.{name}")
        for _, name, package in pkgutil.iter_modules(benchmarks.__path__)
        if not package and name not in ("__main__", "claims")
    }
    found = {name: module for name, module in found.items() if hasattr(module, "measure")}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(found)}")
    parser.add_argument("--short", action="store_true", help="the shorter lengths and fewer repeats")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    parser.add_argument(
        "--page", type=Path, help="a Markdown file whose table of speed is to be replaced, docs/results/speed.md"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in found]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(found)}")
    results = Results(machine=machine(), claims={})
    if options.output.is_file():
        before = Results.model_validate(json.loads(options.output.read_text(encoding="utf-8")))
        results = before if before.machine == results.machine else results
    names = options.names or list(found)
    for name in names:
        print(f"{name} …", file=sys.stderr)
        results.claims[name] = list(found[name].measure(options.short))
        results.threads[name] = torch.get_num_threads()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if options.page is not None:
        options.page.write_text(page(options.page.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(table([claim for name in names for claim in results.claims[name]]))
    print(f"written {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
