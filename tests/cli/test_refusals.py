"""What cannot be done is refused before a library is loaded: on a busy machine torch and transformers take a minute."""

import json
from pathlib import Path

import pytest

from tests.cli.under import under

# (command, what it says); files and folders are those of `places`.
REFUSED = [
    ("convert demo-gpt2 -o full", "full exists and is not empty"),
    ("convert ./model", "model-alibi exists and is not empty"),  # the name that it has by default
    ("convert demo-gpt2 -o t.txt", "t.txt exists and is not a folder"),
    ("convert demo-gpt2 -o t.txt/sub", "t.txt/sub cannot be an output folder"),
    ("convert demo-gpt2 -o t.txt --dry-run", "t.txt exists and is not a folder"),
    ("inspect plan demo-gpt2 -o t.txt/sub", "t.txt/sub cannot be an output folder"),
    ("convert ./model -o model/inside", "overlap"),
    ("convert ./nothere", "There is no folder ./nothere"),
    ("convert a/b/c", "There is no folder a/b/c"),
    ("convert t.txt", "t.txt is a file"),
    ("convert demo-gpt2 --plugin nothere.py", "--plugin: nothere.py cannot be loaded: there is no such file"),
    ("convert demo-gpt2 --slopes nothere.json", "--slopes: cannot read nothere.json"),
    ("convert demo-gpt2 --slopes t.txt", "--slopes: t.txt is not JSON"),
    ("convert demo-gpt2 --slopes calibrated --calibration-text nothere.txt", "Cannot read nothere.txt"),
    ("convert demo-gpt2 --sinks 2048 --max-sequence-length 2k", "--sinks 2048 would leave the declared length"),
    ("convert demo-gpt2 --max-bias 1e9", "--max-bias must be above 0 and at most 126"),
    ("convert demo-gpt2 --revision main", "--revision chooses one of a Hub repository"),
    ("convert demo-gpt2 --dry-run --link", "--link does nothing in a dry run"),
    ("convert demo-gpt2 --dry-run --no-verify", "--no-verify does nothing in a dry run"),
    ("inspect plan ./nothere", "There is no folder ./nothere"),
    ("inspect slopes ./nothere", "There is no folder ./nothere"),
    ("inspect policies --plugin nothere.py", "--plugin: nothere.py cannot be loaded"),
    ("inspect heads demo-gpt2 --plot nodir/x.png", "nodir/x.png cannot be written"),
    ("inspect heads demo-gpt2 -o r0.bmp", "Error: r0.bmp must end in .png, .svg or .pdf"),
    ("inspect heads demo-gpt2 --text nothere.txt", "Cannot read nothere.txt"),
    ("inspect heads demo-gpt2 --revision main", "--revision chooses one of a Hub repository"),
    ("inspect bias -o r0.bmp", "Error: r0.bmp must end in .png, .svg or .pdf"),
    ("bench attention --plot nodir/x.png", "nodir/x.png cannot be written"),
    ("train demo-gpt2 -o full --steps 1", "full exists and is not empty"),
    ("train demo-gpt2 -o t.txt/sub --steps 1 --resume", "t.txt/sub cannot be an output folder"),
    ("train ./nothere -o new --steps 1", "There is no folder ./nothere"),
    ("train demo-gpt2 -o new --steps 1 --teacher ./nothere", "There is no folder ./nothere"),
    ("train demo-gpt2 -o new --steps 1 --text nothere.txt", "Cannot read nothere.txt"),
    ("train demo-gpt2 -o new --steps 1 --plugin nothere.py", "--plugin: nothere.py cannot be loaded"),
    ("train demo-gpt2 -o new --steps 1 --fsdp banana", "--fsdp shards a model over the accelerators"),
    ("train demo-gpt2 -o new --steps 1 --deepspeed nothere.json", "--deepspeed: cannot read nothere.json"),
    ("train demo-gpt2 -o new --steps 1 --revision main", "--revision chooses one of a Hub repository"),
    ("train demo-gpt2 -o new --steps 1 --seed 5000000000", "--seed must be between 0 and 4,294,967,295"),
    ("eval ./nothere", "There is no folder ./nothere"),
    ("eval ./nothere.gguf", "There is no file ./nothere.gguf"),
    ("eval --baseline ./nothere:window", "There is no folder ./nothere"),
    ("eval --baseline demo-gpt2", "--baseline: demo-gpt2 would be compared with itself"),
    ("eval --text nothere.txt", "Cannot read nothere.txt"),
    ("eval --text rows.jsonl", "rows.jsonl holds rows, not text"),
    ("eval --text empty", "empty holds no text files"),
    ("eval --plot nodir/x.png", "nodir/x.png cannot be written"),
    ("eval --plot r0.bmp", "Error: r0.bmp must end in .png, .svg or .pdf"),
    ("eval --format csv --json", "Give --format or --json"),
    ("eval --output r.json", "r.json exists"),
    ("eval --revision main", "--revision chooses one of a Hub repository"),
    ("eval --plugin nothere.py", "--plugin: nothere.py cannot be loaded"),
    ("eval --lengths 1:1e9", "--lengths are whole numbers from 2 to 2,147,483,648; 1 is not one"),
    ("eval --dry-run --output new.json", "--output does nothing in a dry run"),
    ("eval --dry-run --plot new.png", "--plot does nothing in a dry run"),
    ("eval --dry-run --report-to tensorboard", "--report-to does nothing in a dry run"),
    ("task nope", "There is no task 'nope'"),
    ("task passkey --revision main", "--revision chooses one of a Hub repository"),
    ("task passkey --verbose", "--verbose says what --attention auto chooses"),
    ("export demo-llama -o new.gguf", "demo-llama is no converted checkpoint"),
    ("report t.txt", "t.txt is not JSON"),
    ("report nothere.json", "There is no file nothere.json"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    for name in ("full", "model", "model-alibi", "empty"):
        (folder / name).mkdir()
    (folder / "full" / "file").touch()
    (folder / "model-alibi" / "file").touch()
    (folder / "t.txt").write_text("A text.")
    (folder / "rows.jsonl").write_text('{"text": "A row."}\n')
    (folder / "r.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def answers(places: Path) -> dict[str, tuple[int, str, str]]:
    """Of all commands, in one process that has neither library."""
    commands = [command for command, _ in REFUSED] + ["inspect policies"]
    words = [command.split() for command in commands]
    found = under({}, *words, without=("torch", "transformers", "datasets", "accelerate"), cwd=places)
    return dict(zip(commands, found, strict=True))


@pytest.mark.parametrize(("command", "says"), REFUSED, ids=[command for command, _ in REFUSED])
def test_it_is_refused_before_a_library_is_loaded(command: str, says: str, answers: dict) -> None:
    code, out, err = answers[command]
    assert (code, out) == (2, "") and says in err and "`" not in err and "was imported" not in err
    assert len(err.splitlines()) <= 2


def test_the_guard_notices_a_library(answers: dict) -> None:
    code, _, err = answers["inspect policies"]
    assert code == 1 and "was imported" in err


def test_a_refusal_leaves_everything_as_it_was(places: Path, answers: dict) -> None:
    assert answers and sorted(path.name for path in places.rglob("*")) == sorted(
        ["full", "file", "model", "model-alibi", "file", "empty", "t.txt", "rows.jsonl", "r.json"]
    )
    assert json.loads((places / "r.json").read_text()) == {}
