"""Random models of every family: converted, reloaded in another process, measured and verified, under every policy that the family has."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, reject
from transformers import AutoTokenizer, PreTrainedModel

import alibi_cli as alibi
from alibi_cli.conversion.plan import Plan
from alibi_cli.conversion.verify import verify
from alibi_cli.conversion.writer import write
from alibi_cli.settings.presets import presets_folder
from alibi_cli.surgery.apply import apply_alibi
from alibi_cli.text.documents import Text
from tests.checkpoint.helpers import plan_of
from tests.fuzz.laboratory import bounded
from tests.fuzz.random_models import Drawn, drawn_models
from tests.fuzzing import ran

WORKER = Path(__file__).parent / "fresh_worker.py"
MODELS_PER_WORKER = 100  # then it is replaced: what it has seen must not help it, and its memory is given back
CLOSE = 1e-5  # of the largest output
TEXT = Text(
    "t", [("d", "Each of them is a little text of its own, and none is long, but there are enough of them. " * 2)]
)


class Stranger:
    """One process after the other that loads checkpoints and has never imported this package."""

    def __init__(self, folder: Path):
        self.folder, self.loaded, self.process = folder, 0, None

    def outputs(self, checkpoint: Path, auto: str, tokens: torch.Tensor, decoder: bool) -> torch.Tensor:
        if self.process is None or self.loaded >= MODELS_PER_WORKER:
            self.close()
            modules = self.folder / "modules"
            shutil.rmtree(modules, ignore_errors=True)
            environment = {**os.environ, "HF_MODULES_CACHE": str(modules), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-I", str(WORKER)]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            self.loaded = 0
            assert self._line() == "ready"
            ran["random models: processes that loaded them"] += 1
        into = self.folder / "outputs.pt"
        request = {
            "folder": str(checkpoint),
            "auto": auto,
            "tokens": tokens.tolist(),
            "decoder": decoder,
            "into": str(into),
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.loaded += 1
        answer = self._line()
        assert answer == "ok", answer
        return torch.load(into)

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(timeout=60)
            self.process = None


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    found = Stranger(tmp_path_factory.mktemp("stranger"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are put, with a tokenizer that can mask."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2")
    tokenizer.add_special_tokens({"mask_token": "<|endoftext|>"})
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def inputs(model: PreTrainedModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens, **({"decoder_input_ids": tokens.flip(1)} if model.config.is_encoder_decoder else {})}


def source_of(drawn: Drawn, folder: Path) -> PreTrainedModel:
    """The stock model in float32, as it comes back from `folder`/source; rejected where transformers has no such model."""
    shutil.rmtree(folder / "source", ignore_errors=True)
    try:
        torch.manual_seed(drawn.seed)
        model = drawn.build()
        with torch.no_grad():
            found = model(**inputs(model, torch.full((1, 4), 5)))
        usable = bool(torch.isfinite(found[0]).all())
    except Exception:  # a configuration that the family does not have
        usable = False
    if not usable:
        ran["random models that transformers does not have"] += 1
        reject()
    drawn.write(folder / "source", model)
    for path in (folder / "tokenizer").iterdir():
        shutil.copy(path, folder / "source")
    return type(model).from_pretrained(folder / "source", dtype=torch.float32).eval()


def in_memory(plan: Plan, model: PreTrainedModel) -> PreTrainedModel:
    apply_alibi(model, plan.max_sequence_length, **plan.settings)
    model.config._name_or_path = "in memory"
    return model


@torch.no_grad()
def difference(model: PreTrainedModel, plan: Plan, stranger: Stranger) -> float:
    """Between what the surgery in memory computes and what a stranger's process does, of the largest output."""
    length = min(2 * plan.trained_length, plan.max_sequence_length) if plan.trained_length else 16
    tokens = torch.tensor([[random.Random(n).randrange(3, 256) for n in range(row, row + length)] for row in (0, 500)])
    ours = model(**inputs(model, tokens), return_dict=True)
    ours = ours.logits if "logits" in ours else ours[0]
    theirs = stranger.outputs(plan.output, plan.auto_class, tokens, model.config.is_encoder_decoder)
    return float((ours - theirs).abs().max() / ours.abs().max())


def losses(model: Any, lengths: tuple[int, int]) -> list[float]:
    results = alibi.evaluate(model, lengths=lengths, text=TEXT, protocol="non-overlapping")
    assert [row.status for row in results.rows] == ["ok"] * len(results.rows)
    return [row.nll for row in results.rows]


@bounded(6, 2000)
@given(drawn=drawn_models())
def test_random_models(drawn: Drawn, place: Path, stranger: Stranger) -> None:
    stock = source_of(drawn, place)
    shutil.rmtree(place / "out", ignore_errors=True)
    plan = plan_of(place / "source", place / "out", **drawn.settings, **drawn.slopes(place, stock))
    report = write(plan)
    assert report.verified is not None and report.verified.passed
    model = in_memory(plan, stock)
    assert difference(model, plan, stranger) <= CLOSE
    verdict = verify(place / "out")
    assert verdict.passed, verdict
    if not model.config.is_encoder_decoder:
        tokenizer = AutoTokenizer.from_pretrained(place / "tokenizer")
        lengths = (max(8, plan.trained_length // 2), 2 * max(8, plan.trained_length))
        found, expected = losses(str(place / "out"), lengths), losses((model, tokenizer), lengths)
        assert found == pytest.approx(expected, abs=1e-5)
    ran[f"random models, policy {drawn.settings['policy']}"] += 1


def test_a_checkpoint_that_computes_something_else_is_found(place: Path, stranger: Stranger) -> None:
    """The control: one slope of one head, changed on the disk."""
    changes: dict[str, Any] = dict(vocab_size=257)
    drawn = Drawn("llama", changes, "float32", "1GB", {"policy": "replace", "max_sequence_length": 48}, False, 0)
    stock = source_of(drawn, place)
    shutil.rmtree(place / "out", ignore_errors=True)
    plan = plan_of(place / "source", place / "out", **drawn.settings)
    write(plan)
    model = in_memory(plan, stock)
    assert difference(model, plan, stranger) <= CLOSE
    config = json.loads((place / "out" / "config.json").read_text())
    config["alibi_slopes"][0] *= 1.2
    (place / "out" / "config.json").write_text(json.dumps(config))
    assert difference(model, plan, stranger) > 100 * CLOSE and not verify(place / "out").passed
