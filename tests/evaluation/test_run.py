"""alibi eval from end to end: rows, figures, comparisons, files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alibi_cli import AlibiError
from alibi_cli.text.documents import Text
from tests.cli.run import alibi, alibi_inside, alibi_json
from tests.evaluation.helpers import LENGTHS, asked, evaluate, without_times
from tests.models import OLD_MAX, save_tiny


def rows_of(results, model: str) -> dict[tuple[str, int], object]:
    return {(row.arm, row.length): row for row in results.rows if row.model == model}


def test_a_table_of_positions_ends_and_the_crop_arm_stands_beside_it(checkpoints: dict[str, str], text: Text) -> None:
    gpt2, converted = checkpoints["gpt2"], checkpoints["gpt2-alibi"]
    results, record = evaluate(asked([gpt2, converted], LENGTHS, text, baseline=gpt2))
    rows = rows_of(results, gpt2)
    assert {key: row.status for key, row in rows.items()} == {
        ("full", 12): "ok",
        ("full", 24): "ok",
        ("full", 48): "out_of_range",
        ("truncated", 48): "ok",
    }
    assert rows["truncated", 48].nll == rows["full", 24].nll and rows["truncated", 48].fed_length == 24
    assert set(rows_of(results, converted)) == {("full", length) for length in LENGTHS}
    assert len({row.tokens_scored for row in results.rows if row.status == "ok"}) == 1
    keys = list(record)
    assert all(record[key].same_tokens(record[keys[0]]) for key in keys)


def test_rotary_originals_are_measured_beyond_their_range(checkpoints: dict[str, str], text: Text) -> None:
    rows = rows_of(evaluate(asked([checkpoints["llama"]], LENGTHS, text))[0], checkpoints["llama"])
    assert rows["full", 48].status == "ok" and rows["truncated", 48].status == "ok"
    assert rows["full", 48].nll != rows["truncated", 48].nll


@pytest.mark.parametrize("protocol", ["fixed-target", "non-overlapping", "sliding"])
def test_figures_follow_from_the_record(protocol: str, checkpoints: dict[str, str], text: Text) -> None:
    model = checkpoints["llama-alibi"]
    results, record = evaluate(
        asked([model], LENGTHS, text, protocol=protocol, stride=5 if protocol == "sliding" else None)
    )
    for row in results.rows:
        nll = record[row.key].nll.astype(np.float64)
        assert row.nll == pytest.approx(nll.mean(), abs=1e-12) and row.perplexity == pytest.approx(math.exp(nll.mean()))
        assert row.bits_per_byte == pytest.approx(nll.mean() / math.log(2), rel=1e-9)  # one byte is one token here
        assert row.ci95[0] <= row.nll <= row.ci95[1] and row.tokens_scored == len(nll)
    if protocol != "fixed-target":
        assert results.rows[0].tokens_scored == sum(len(document.encode()) - 1 for _, document in text.documents)
    for contrast in results.contrasts:
        assert contrast.delta_nll == pytest.approx(
            results.rows[LENGTHS.index(contrast.length)].nll - results.rows[0].nll, abs=1e-9
        )


def test_lm_eval_gives_bits_per_byte_of_the_rolling_log_likelihood(checkpoints: dict[str, str], text: Text) -> None:
    """Every token once, after one end-of-text token for a document, by a plain loop over the whole of its windows."""
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["llama"])
    results, _ = evaluate(asked([checkpoints["llama"]], (16, OLD_MAX), text, protocol="lm-eval"))
    for row in results.rows:
        total = 0.0
        for _, document in text.documents:
            ids = [tokenizer.eos_token_id, *tokenizer.encode(document)]
            for begin in range(1, len(ids), row.length):
                end = min(len(ids), begin + row.length)
                fed, wanted = ids[max(0, end - 1 - row.length) : end - 1], ids[begin:end]
                with torch.no_grad():
                    logits = model(torch.tensor([fed])).logits[0, -len(wanted) :].double()
                total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(wanted), reduction="sum"))
        n_bytes = sum(len(document.encode()) for _, document in text.documents)
        assert row.bits_per_byte == pytest.approx(total / n_bytes / math.log(2), abs=1e-6)
    plain, _ = evaluate(asked([checkpoints["llama"]], (16,), text, protocol="non-overlapping"))
    assert abs(plain.rows[0].bits_per_byte - results.rows[0].bits_per_byte) > 1e-4


def test_models_are_compared_in_pairs(checkpoints: dict[str, str], text: Text) -> None:
    llama, converted = checkpoints["llama"], checkpoints["llama-alibi"]
    results, _ = evaluate(asked([llama, converted], LENGTHS, text, baseline=llama))
    found = {(c.model, c.baseline, c.baseline_arm, c.length, c.baseline_length) for c in results.contrasts}
    assert {(converted, llama, "full", length, length) for length in LENGTHS} <= found
    assert (converted, llama, "truncated", 48, 48) in found and (converted, converted, "full", 48, 12) in found
    for c in results.contrasts:
        if c.baseline == llama:
            arm = c.baseline_arm
            better, worse = ("improves", "degrades") if arm == "full" else (f"better than {arm}", f"worse than {arm}")
            none = "no detectable change" if arm == "full" else f"no better than {arm}"
            word = better if c.ci95[1] < 0 else worse if c.ci95[0] > 0 else none
            assert c.verdict.split(", ")[0] == word


def test_a_model_compared_with_itself_shows_no_change(checkpoints: dict[str, str], text: Text) -> None:
    llama = checkpoints["llama"]
    results, _ = evaluate(asked([llama, llama + "/"], LENGTHS, text, baseline=llama))
    same = [c for c in results.contrasts if c.model != c.baseline and c.baseline_arm == "full"]
    assert same and all(c.delta_nll == 0 and c.verdict == "no detectable change" for c in same)


def test_encoders_fill_in_the_same_masked_positions_at_every_length(
    checkpoints: dict[str, str], text: Text, tmp_path: Path
) -> None:
    masked = tmp_path / "masked"
    save_tiny("roberta", masked)
    tokenizer = json.loads((masked / "tokenizer_config.json").read_text())
    (masked / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "mask_token": "<|endoftext|>"}))
    results, record = evaluate(asked([str(masked)], (8, 16), text, protocol="non-overlapping"))
    assert results.protocol.masked and [row.status for row in results.rows] == ["ok", "ok"]
    (a, b) = record.values()
    assert a.same_tokens(b)
    _, record2 = evaluate(asked([str(masked)], (8, 16), text, protocol="non-overlapping"))
    assert all(np.array_equal(record[key].nll, record2[key].nll) for key in record)
    with pytest.raises(AlibiError, match="mask token"):
        evaluate(asked([checkpoints["roberta"]], (8, 16), text))


def test_two_runs_are_bit_identical(checkpoints: dict[str, str], text: Text) -> None:
    runs = [evaluate(asked([checkpoints["gpt2-alibi"]], LENGTHS, text))[1] for _ in range(2)]
    assert all(np.array_equal(runs[0][key].nll, runs[1][key].nll) for key in runs[0])


def test_command_line(checkpoints: dict[str, str], tmp_path: Path) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "r.svg"
    arguments = [
        checkpoints["gpt2-alibi"],
        "--baseline",
        checkpoints["gpt2"],
        "--lengths",
        "12:48",
        "--max-segments",
        "30",
    ]
    result = alibi("eval", *arguments, "--output", out, "--plot", picture)
    assert (
        "gpt2:truncated" in result.stdout
        and "beyond its position embeddings" in result.stdout
        and "no detectable change" in result.stdout
    )
    assert "fixed-target, K=6" in result.stdout and result.stderr.count("\n") <= 2
    written = json.loads(out.read_text())
    assert picture.read_text().startswith("<?xml") and written["schema_version"] == 1
    assert written["text"]["name"] == "python-docs" and len(written["text"]["sha256"]) == 64
    printed = alibi_json("eval", *arguments)
    row = next(row for row in written["rows"] if row["status"] == "ok")
    wanted = {
        "model",
        "length",
        "status",
        "nll",
        "perplexity",
        "bits_per_byte",
        "tokens_scored",
        "ci95",
        "seconds",
        "tokens_per_second",
        "peak_bytes",
    }
    assert wanted <= set(row)
    assert {"model", "baseline", "length", "baseline_length", "delta_nll", "ci95", "verdict"} <= set(
        written["contrasts"][0]
    )
    assert without_times(printed) == without_times(written)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lengths", "abc"],
        ["--lengths", "0,5"],
        ["--lengths", "9:5"],
        ["--protocol", "sliding"],
        ["--plot", "x.bmp"],
        ["--resume"],
        ["--output", "nowhere/at/all.json"],
        ["--output", "r-0.5", "--lengths", "8", "--max-segments", "1"],
        ["--lengths", "100000,200000"],
        ["--text", "absent.txt"],
        ["--dataset", "a:b:c:d"],
        ["--preset", "demos"],
        ["--targets", "24", "--lengths", "12,24"],
        ["--device", "cuda:77"],
        ["--stride", "3"],
    ],
)
def test_bad_arguments_are_one_clear_message(
    arguments: list[str], checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = alibi_inside("eval", checkpoints["gpt2-alibi"], *arguments, code=2)
    assert result.stdout == "" and "Traceback" not in result.stderr and result.stderr.strip()
    assert list(tmp_path.iterdir()) == []


def test_non_finite_losses_are_a_row_and_an_exit_code(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file

    folder = save_tiny("gpt2", tmp_path / "m")
    tensors = load(folder / "model.safetensors")
    tensors["transformer.ln_f.weight"][:] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = alibi_inside("eval", folder, "--lengths", "8,16", "--max-segments", "5", "--json", code=1)
    assert [row["status"] for row in json.loads(result.stdout)["rows"]] == ["non_finite", "non_finite"]


def test_models_that_cut_the_text_differently_are_not_compared(
    checkpoints: dict[str, str], text: Text, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, processors

    other = save_tiny("llama", tmp_path / "other")
    raw = Tokenizer.from_file(str(other / "tokenizer.json"))
    special = [("<|endoftext|>", 256)]
    raw.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=special)
    raw.save(str(other / "tokenizer.json"))
    results, _ = evaluate(asked([checkpoints["llama"], str(other)], (8, 12), text, baseline=checkpoints["llama"]))
    assert all(row.status == "ok" for row in results.rows)
    assert results.models[1].special_tokens[0] == [256]
    assert not [c for c in results.contrasts if c.model != c.baseline]
    with pytest.raises(AlibiError, match="cannot be scored together"):
        evaluate(asked([checkpoints["roberta"], checkpoints["llama"]], (8, 12), text))


def test_a_length_that_does_not_fit_is_a_row_and_exit_code_1(
    checkpoints: dict[str, str], text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected where the real one arises, in the model's body; the other rows equal a run without the fault."""
    import torch

    from alibi_cli.evaluation.scoring import Scorer

    request = asked([checkpoints["llama-alibi"]], (8, 12, 16), text, output=tmp_path / "r.json", resume=True)
    expected, _ = evaluate(asked([checkpoints["llama-alibi"]], (8, 12, 16), text))
    real = Scorer._score_batch

    def failing(self, documents, windows):
        if windows[0].end - windows[0].begin == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. (injected)")
        return real(self, documents, windows)

    monkeypatch.setattr(Scorer, "_score_batch", failing)
    results, _ = evaluate(request)
    assert [row.status for row in results.rows] == ["ok", "out_of_memory", "ok"]
    assert [row.nll for row in results.rows][::2] == [row.nll for row in expected.rows][::2]
    monkeypatch.undo()
    again, _ = evaluate(request)
    assert [row.nll for row in again.rows] == [row.nll for row in expected.rows]


def test_a_stock_model_that_no_policy_knows_can_be_measured(text: Text, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

    from alibi_cli.settings.presets import presets_folder

    config = GPTNeoConfig(
        vocab_size=257,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=24,
    )
    GPTNeoForCausalLM(config).save_pretrained(tmp_path / "neo")
    AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2").save_pretrained(tmp_path / "neo")
    results, _ = evaluate(asked([str(tmp_path / "neo")], LENGTHS, text))
    assert [(row.arm, row.status) for row in results.rows] == [
        ("full", "ok"), ("full", "ok"), ("full", "out_of_range"), ("truncated", "ok"),
    ]  # fmt: skip


def test_mixtures_of_experts_are_scored(text: Text, tmp_path: Path) -> None:
    folder = save_tiny("mixtral", tmp_path / "moe")
    results, _ = evaluate(asked([str(folder)], (8, 12), text))
    assert [row.status for row in results.rows] == ["ok", "ok"]
