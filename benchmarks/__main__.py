"""python -m benchmarks [--short] [--output FILE] [NAME …]: measures, prints one table, writes one JSON file. Without names: everything."""

import argparse
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import benchmarks
from benchmarks.claims import Claim, Results, machine, table


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
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in found]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(found)}")
    claims: dict[str, list[Claim]] = {}
    for name in options.names or found:
        print(f"{name} …", file=sys.stderr)
        claims[name] = list(found[name].measure(options.short))
    results = Results(machine=machine(), claims=claims)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(table([claim for part in claims.values() for claim in part]))
    print(f"written {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
