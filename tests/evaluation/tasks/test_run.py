"""Tasks on models: those that can get everything right, those that cannot get chance, and the command line around them."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import alibi_cli
from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.statistics import wilson
from alibi_cli.evaluation.tasks import run_task as run
from alibi_cli.evaluation.tasks import task as registry
from alibi_cli.evaluation.tasks.run_task import Answers
from alibi_cli.evaluation.tasks.task import Item, Task, register_task
from tests.cli.run import alibi, alibi_inside, alibi_json
from tests.evaluation.helpers import ask
from tests.evaluation.tasks.oracles import TOKENIZER, Oracle, calculates, copies, digit
from tests.models import save_tiny


@pytest.mark.parametrize(("task", "oracle", "room"), [("passkey", copies, 256), ("listops", calculates, 160)])
def test_an_oracle_is_always_right(task: str, oracle, room: int, tiny_llama: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "load_model", lambda *args: Oracle(oracle).eval())
    results = ask(task, [str(tiny_llama)], (room,), samples=3)
    for row in results["rows"]:
        assert row["status"] == "ok" and row["accuracy"] == 1.0 and row["ci95"][1] == pytest.approx(1.0)
    assert len(results["rows"]) == (6 if task == "passkey" else 1)


def test_one_wrong_digit_is_a_wrong_answer(tiny_llama: Path, monkeypatch) -> None:
    def nearly(seen: list[int]) -> int:
        right = copies(seen)
        last = re.search(r"key is \d{4}$", TOKENIZER.decode(seen)) and TOKENIZER.decode([right]).isdigit()
        return digit((int(TOKENIZER.decode([right])) + 1) % 10) if last else right

    monkeypatch.setattr(run, "load_model", lambda *args: Oracle(nearly).eval())
    rows = ask("passkey", [str(tiny_llama)], (256,), samples=2)["rows"]
    assert all(row["accuracy"] == 0 for row in rows)


def test_random_models_are_at_chance(tiny_llama: Path) -> None:
    listops = ask("listops", [str(tiny_llama)], (150,), samples=100)["rows"][0]
    assert listops["ci95"][0] <= 0.1 <= listops["ci95"][1] and listops["accuracy"] < 0.3
    passkey = ask("passkey", [str(tiny_llama)], (200,), samples=4)["rows"][0]
    assert passkey["accuracy"] == 0 and passkey["ci95"][0] <= passkey["chance"] <= passkey["ci95"][1]


def test_a_model_that_always_says_the_same_is_at_chance_exactly(tiny_llama: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "load_model", lambda *args: Oracle(lambda seen: digit(0)).eval())
    assert ask("listops", [str(tiny_llama)], (150,), samples=50)["rows"][0]["accuracy"] == 0.1


def test_the_score_is_what_greedy_generation_writes(tiny_gpt2: Path) -> None:
    """Teacher-forced: an item is right exactly if generate() would have continued the prompt with its target."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    prompts = [torch.randint(0, 256, (1, 12 + n)) for n in range(6)]
    written = [
        model.generate(p, max_new_tokens=3, do_sample=False, eos_token_id=None)[0, p.shape[1] :] for p in prompts
    ]
    items = [Item("", "", p[0].tolist(), w.tolist()) for p, w in zip(prompts, written, strict=True)]
    wrong = [Item("", "", item.prompt, [*item.target[:2], (item.target[2] + 1) % 256]) for item in items]
    assert Answers(model, [], []).answers(items) == [1.0] * 6
    assert Answers(model, [], []).answers(wrong) == [0.0] * 6


def test_lengths_hold_with_special_tokens(tiny_llama: Path, monkeypatch) -> None:
    fed = []

    def watching(seen: list[int]) -> int:
        fed.append(len(seen))
        return 0

    monkeypatch.setattr(run, "load_model", lambda *args: Oracle(watching).eval())
    monkeypatch.setattr(run, "special_tokens", lambda tokenizer: ([256, 256], []))
    rows = ask("passkey", [str(tiny_llama)], (200,), samples=3)["rows"]
    assert 140 < max(fed) < 200 and max(row["tokens"] for row in rows) <= max(fed)


def test_numbers_that_are_none_are_no_answers(tiny_llama: Path, monkeypatch) -> None:
    broken = Oracle(lambda seen: 0)
    broken.body.anchor.data.fill_(float("nan"))
    monkeypatch.setattr(run, "load_model", lambda *args: broken.eval())
    row = ask("listops", [str(tiny_llama)], (150,), samples=3)["rows"][0]
    assert row["status"] == "non_finite" and row["accuracy"] is None and row["ci95"] is None


def test_a_table_ends_and_an_encoder_is_refused(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path / "gpt2")
    limit = json.loads((tmp_path / "gpt2" / "config.json").read_text())["n_positions"]
    rows = ask("listops", [str(tmp_path / "gpt2")], (8 * limit,), samples=1)["rows"]
    assert [row["status"] for row in rows] == ["out_of_range"] and rows[0]["accuracy"] is None
    save_tiny("bert", tmp_path / "bert")
    with pytest.raises(AlibiError, match="fills in masked tokens"):
        ask("listops", [str(tmp_path / "bert")], (150,))


def test_a_registered_task_is_picked_up_by_name(tiny_llama: Path) -> None:
    @register_task("echo")
    class Echo(Task):
        chance, samples = 1 / 257, 3

        def item(self, encode, room, depth, index, rng):
            return Item("a", "a", encode("a") * (room - 1), encode("a"))

    try:
        rows = ask("echo", [str(tiny_llama)], (8,))["rows"]
    finally:
        del registry._registry["echo"]
    assert len(rows) == 1 and rows[0]["samples"] == 3 and rows[0]["tokens"] == 8 - 1


def test_wilson() -> None:
    """Against the values of Newcombe 1998, table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    for bad in ((1, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match="proportion"):
            wilson(*bad)


def test_command_line(tmp_path: Path) -> None:
    file = tmp_path / "passkey.json"
    short = ("passkey", "demo-llama", "--lengths", "256,300", "--samples", "1")
    found = alibi_json("task", *short, "--output", file)
    assert found == json.loads(file.read_text()) and [path.name for path in tmp_path.iterdir()] == ["passkey.json"]
    assert [row["depth"] for row in found["rows"]] == [None, 0.0, 0.25, 0.5, 0.75, 1.0] * 2
    assert found["rows"][0]["samples"] == len(found["rows"][0]["outcomes"]) == 5
    assert "exists" in alibi("task", *short, "--output", file, code=2).stderr
    table = alibi_inside("task", "listops", "demo-llama", "--lengths", "200", "--samples", "10").stdout
    assert "guessing gets 0.1" in table and "95 % interval" in table and "depth" not in table


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_a_task_is_a_table_for_a_paper_too(form: str, tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "passkey.json"
    results = alibi_cli.evaluate_task("passkey", [str(tiny_llama)], lengths=(256,), samples=1, output=file)
    printed = alibi_inside("report", file, "--format", form).stdout
    assert printed == results.to_text(form) and printed.count("0.25") == 1
    first = {"markdown": "passkey, seed", "latex": r"\begin{table}", "csv": "model,task,length,depth,status,accuracy"}
    assert printed.startswith(first[form])
    words = ("task", "passkey", tiny_llama, "--lengths", "256", "--samples", "1", "--format", form)
    assert alibi_inside(*words).stdout == printed


def test_a_model_is_asked_once_and_two_of_one_name_are_refused(tiny_llama: Path, tiny_gpt2: Path) -> None:
    twice = ask("listops", [str(tiny_llama), str(tiny_llama)], (120,), samples=1)
    assert len(twice["models"]) == len(twice["rows"]) == 1
    models = []
    for folder in (tiny_llama, tiny_gpt2):
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.config._name_or_path = "m"
        models.append((model, AutoTokenizer.from_pretrained(folder)))
    with pytest.raises(AlibiError, match="Two models are called m"):
        ask("listops", models, (120,), samples=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval", "--task", "passkey"], "alibi task passkey MODEL"),
        (["task", "passky"], "Did you mean passkey?"),
        (["task", "passkey", "--lengths", "64"], "64 are too few"),
        (["task", "passkey", "--output", "r.txt"], "must end in .json"),
        (["task", "passkey", "--plugin", "absent.py"], "there is no such file"),
    ],
)
def test_refusals_are_one_or_two_lines(arguments: list[str], says: str) -> None:
    result = alibi_inside(*arguments, code=2)
    assert says in result.stderr and result.stdout == "" and len(result.stderr.splitlines()) <= 2
