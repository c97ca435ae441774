"""What a conversion does to a real pretrained model: SmolLM2-135M-Instruct on documents of 16,384 tokens.

    python -m benchmarks.real_model                            measures what has no record yet, and prints the tables
    python -m benchmarks.real_model --list                     the arms and documents, and what is missing
    python -m benchmarks.real_model --arms original,window     these arms alone
    python -m benchmarks.real_model --page docs/quality.md     measures nothing; writes tables and figure into a page
    python -m benchmarks.real_model --readme README.md         measures nothing; writes the headline and docs/images/smollm2.svg

The model, the text and the checkpoints go to build/real_model, nothing of it is committed; sums of the losses go to
benchmarks/real_model/records. An interrupted run goes on at the next document.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.real_model import headline, measure, report
from benchmarks.real_model.arms import ARMS, Arm
from benchmarks.real_model.documents import TextChanged
from benchmarks.real_model.evaluation_texts import evaluation_documents
from benchmarks.real_model.packages import PipFailed
from benchmarks.real_model.records import BIN, load, path_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=_arms, default=list(ARMS), metavar="A,B,C", help="names of arms; all by default")
    parser.add_argument(
        "--documents", type=int, default=12, metavar="N", help="the first N documents; 12, all, by default"
    )
    parser.add_argument("--length", type=_length, metavar="T", help="tokens of each document; the arm's own by default")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, …; a GPU by default if there is one")
    parser.add_argument("--list", action="store_true", help="print what there is and what is missing")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write the report there, from the records")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="of the page: docs/real_model.svg by default")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE.md", help="write one table and one picture there, from the records"
    )
    args = parser.parse_args()
    documents = evaluation_documents()[: args.documents]
    if args.list:
        for arm in args.arms:
            done = [document for document in documents if load(path_of(arm.name, document.name)) is not None]
            print(f"{len(done):2} of {len(documents)} documents  {arm.name:25} {arm.what}")
        return 0
    if args.page:
        report.into_page(args.page, args.figure or args.page.with_name("real_model.svg"))
        return 0
    if args.readme:
        headline.into_readme(args.readme, args.readme.parent / "docs" / "images" / "smollm2.svg")
        return 0
    try:
        failed = measure.measure(args.arms, measure.tokens_of(documents), args.length, args.device, _say)
    except (PipFailed, TextChanged, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    print(report.tables(report.Study()))
    return 1 if failed else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arms(text: str) -> list[Arm]:
    by_name = {arm.name: arm for arm in ARMS}
    if unknown := [name for name in text.split(",") if name not in by_name]:
        raise argparse.ArgumentTypeError(f"no arm {unknown[0]!r}; there are {', '.join(by_name)}")
    return [by_name[name] for name in text.split(",")]


def _length(text: str) -> int:
    if (length := int(text)) < BIN or length % BIN:
        raise argparse.ArgumentTypeError(f"a multiple of {BIN}, not {text}")
    return length


if __name__ == "__main__":
    raise SystemExit(main())
