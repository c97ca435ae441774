"""Arms: each against a computation of its own, where they apply, what they refuse, how they are compared, and files of 0.1.0."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from alibi_cli import AlibiError, apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.evaluation import window_attention
from alibi_cli.evaluation.arms import Limits, arm_of, limits_of, parse_arm, split_arm
from alibi_cli.evaluation.contrasts import in_words
from alibi_cli.evaluation.results import Contrast, RowKey
from alibi_cli.evaluation.results_file import load_results
from alibi_cli.evaluation.window_attention import attend, note_rule
from alibi_cli.plots.results_plot import APART, labelled
from alibi_cli.settings.presets import parse_preset
from alibi_cli.settings.shared import parse_names
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_inside
from tests.evaluation.helpers import asked, evaluate
from tests.evaluation.test_run import LENGTHS, checkpoints, text  # noqa: F401
from tests.models import FAMILIES, MODELS, OLD_MAX, is_encoder, sample_tokens, save_tiny, skeleton, tiny_model

OLD_FILE = Path(__file__).parent / "data" / "results-0.1.0.json"
ROTATIONS = ("linear", "dynamic", "yarn")
LENGTH = 48


def by_loops(query: np.ndarray, key: np.ndarray, value: np.ndarray, window: int, sinks: int) -> np.ndarray:
    """(H, Q, D) float64 attention, one score after the other: causal, the last `window` keys and the first `sinks`."""
    heads, n, width = query.shape
    out = np.zeros_like(query)
    for h in range(heads):
        group = h // (heads // key.shape[0])
        for i in range(n):
            allowed = [j for j in range(i + 1) if i - j < window or j < sinks]
            scores = [float(query[h, i] @ key[group, j]) / math.sqrt(width) for j in allowed]
            weights = [math.exp(score - max(scores)) for score in scores]
            for j, weight in zip(allowed, weights, strict=True):
                out[h, i] += weight / sum(weights) * value[group, j]
    return out


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (7, 0), (7, 4), (1, 4), (20, 3), (64, 0)])
def test_attention_is_that_of_the_definition(window: int, sinks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_attention, "BLOCK", 8)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, h, 37, 8, generator=generator, dtype=torch.float64) for h in (4, 2, 2))
    rule = note_rule(37, 37, window=window, sinks=sinks)
    found = attend(torch.nn.Module().eval(), query, key, value, rule)[0][0].transpose(0, 1).numpy()
    arrays = query[0].numpy(), key[0].numpy(), value[0].numpy()
    assert np.abs(found - by_loops(*arrays, window, sinks)).max() <= 1e-12
    if window < 37:  # the controls: one token more, one sink more
        assert np.abs(found - by_loops(*arrays, window + 1, sinks)).max() > 1e-3
        assert np.abs(found - by_loops(*arrays, window, sinks + 1)).max() > 1e-3


def dense(model: torch.nn.Module, ids: torch.Tensor, window: int, sinks: int) -> torch.Tensor:
    """Logits of the model's own eager attention with an explicit mask of all queries and keys."""
    n = ids.shape[1]
    own = getattr(model.config, "sliding_window", None) if "sliding_attention" in layers_of(model) else None
    masks = {}
    sliding = (window, sinks) if own is None or own > window + sinks else (own, 0)
    for name, (near, first) in (("full_attention", (window, sinks)), ("sliding_attention", sliding)):
        mask = torch.full((1, 1, n, n), torch.finfo(torch.float64).min, dtype=torch.float64)
        for i in range(n):
            for j in range(i + 1):
                if i - j < near or j < first:
                    mask[0, 0, i, j] = 0
        masks[name] = mask
    before, options = model.config._attn_implementation, {}
    if not getattr(model.config, "reorder_and_upcast_attn", False):  # which cannot be eager in float64
        model.config._attn_implementation = "eager"
    if model.config.model_type == "opt":  # which counts positions from a mask of two dimensions
        options["position_ids"] = torch.arange(n)[None]
    try:
        with torch.no_grad():
            mask = masks if own is not None else masks["full_attention"]
            return model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    finally:
        model.config._attn_implementation = before


def layers_of(model: torch.nn.Module) -> list[str]:
    return getattr(model.config, "layer_types", None) or ["full_attention"]


WITH_WINDOWS = [
    name
    for name in MODELS
    if not (model := skeleton(name)).config.is_encoder_decoder
    and limits_of(model, is_encoder(model)).no_window is None
    and (limits_of(model).own_window or LENGTH) > 20
]


def test_most_decoders_can_have_windows() -> None:
    assert len(WITH_WINDOWS) >= 25 and {"llama", "gpt2", "gemma2", "gpt_oss", "gpt_neox"} <= set(WITH_WINDOWS)


@pytest.mark.parametrize("family", WITH_WINDOWS)
@pytest.mark.parametrize(("arm", "window", "sinks"), [("window:20", 20, 0), ("window+sinks:20", 16, 4)])
def test_windows_of_whole_models_equal_a_dense_mask(
    family: str, arm: str, window: int, sinks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_attention, "BLOCK", 8)
    model, ids = tiny_model(family, max_position_embeddings=64), sample_tokens(2, LENGTH)
    with torch.no_grad():
        plain = model(input_ids=ids, use_cache=False).logits
        with arm_of(model, arm, trained_length=64, length=LENGTH):
            found = model(input_ids=ids, use_cache=False).logits
        after = model(input_ids=ids, use_cache=False).logits
    assert (found - dense(model, ids, window, sinks)).abs().max() <= 2e-5  # some families round weights to float32
    assert torch.equal(after, plain) and (found - plain)[:, :20].abs().max() <= 2e-5
    assert (found - plain)[:, 20:].abs().max() > 1e-3  # the controls: no arm, another window, no sinks
    assert (found - dense(model, ids, window - 1, sinks)).abs().max() > 1e-3
    assert (found - dense(model, ids, window + sinks, 0)).abs().max() > 1e-3 or sinks == 0


def test_layers_with_a_window_of_their_own() -> None:
    """Those of gemma2 see 7 tokens: a larger arm leaves them, a smaller one takes their place."""
    model, ids = tiny_model("gemma2", max_position_embeddings=64), sample_tokens(1, LENGTH)
    for arm, window, sinks in (("window:5", 5, 0), ("window+sinks:6", 2, 4), ("window+sinks:20", 16, 4)):
        with torch.no_grad(), arm_of(model, arm, trained_length=64, length=LENGTH):
            found = model(input_ids=ids, use_cache=False).logits
        assert (found - dense(model, ids, window, sinks)).abs().max() <= 2e-5


def test_a_cache_continues_within_the_arm() -> None:
    model, ids = tiny_model("llama"), sample_tokens(1, 40)
    with torch.no_grad(), arm_of(model, "window+sinks:12", trained_length=OLD_MAX, length=40):
        whole = model(input_ids=ids).logits
        cache = model(input_ids=ids[:, :30]).past_key_values
        rest = [model(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in range(30, 40)]
    assert (torch.cat(rest, 1) - whole[:, 30:]).abs().max() <= 1e-10


def test_within_its_reach_an_arm_is_the_original() -> None:
    model, ids = tiny_model("llama"), sample_tokens(1, OLD_MAX)
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        for arm in ("full", "window", "window+sinks", *ROTATIONS):
            with arm_of(model, arm, trained_length=OLD_MAX, length=OLD_MAX):
                assert torch.equal(model(input_ids=ids).logits, plain)


def test_a_model_is_put_back_after_an_error() -> None:
    model, ids = tiny_model("llama"), sample_tokens(1, LENGTH)
    rotation, attention = model.model.rotary_emb, model.config._attn_implementation
    for arm in ("window", "yarn"):
        with pytest.raises(ZeroDivisionError), arm_of(model, arm, trained_length=OLD_MAX, length=LENGTH):
            raise ZeroDivisionError
    assert model.model.rotary_emb is rotation and model.config._attn_implementation == attention
    with (
        pytest.raises(AlibiError, match="feed it the last 24"),
        arm_of(model, "truncated", trained_length=24, length=48),
    ):
        model(input_ids=ids)
    padding = torch.ones_like(ids)
    padding[0, 0] = 0
    with pytest.raises(AlibiError, match="padding"), arm_of(model, "window", trained_length=24, length=48):
        model(input_ids=ids, attention_mask=padding)


def test_windows_hold_nothing_of_length_by_length() -> None:
    """4,096 tokens, a window of 256: one mask of all queries and keys in float32 would be 64 MiB, all scores four times that."""
    length, window = 4096, 256
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, length, 8, generator=generator) for _ in range(3))
    rule, module = note_rule(length, length, window=window, sinks=4), torch.nn.Module().eval()
    peak = peak_of_allocations(lambda: attend(module, query, key, value, rule))
    block = window_attention.BLOCK * (window + window_attention.BLOCK)
    assert peak <= 5 * query.nbytes + 16 * block, peak / query.nbytes
    assert peak < 4 * length * length / 2


def test_names() -> None:
    assert parse_names("none") == () and parse_names("yarn, window:1024,yarn") == ("yarn", "window:1024")
    for wrong in ("crop", "yarn:4", "truncated:5", "window:", "window:x", "window:0", "window+sinks:4", "", "full"):
        with pytest.raises(AlibiError) as error:
            [parse_arm(name) for name in parse_names(wrong)]
        assert error.value.exit_code == 2
    assert parse_arm("window+sinks:5").settings(24, 48) == {"window": 1, "sinks": 4}
    assert parse_arm("window+sinks").settings(8192, 16384) == {"window": 8188, "sinks": 4}
    assert parse_arm("yarn").settings(8192, 16384) == {"factor": 2.0}


def test_presets_may_name_arms() -> None:
    preset = "command: eval\ndescription: d\nsettings:\n  lengths: 512:2048\n  arms: {}\n"
    assert parse_preset(preset.format("truncated,window+sinks"), "x.yaml")[2]["arms"] == "truncated,window+sinks"
    with pytest.raises(AlibiError, match="arms"):
        parse_preset(preset.format("3"), "x.yaml")


def test_only_names_of_arms_are_split_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_arm("gpt2:window+sinks") == ("gpt2", "window+sinks")
    assert split_arm("a:b:window:1024") == ("a:b", "window:1024")
    assert split_arm("C:/models/x:truncated") == ("C:/models/x", "truncated")
    for whole in ("gpt2", "a:b", "a:crop", "yarn", "a:windows", "a:yarn:4", "a:truncated:9"):
        assert split_arm(whole) == (whole, None)
    monkeypatch.chdir(tmp_path)
    Path("model:yarn").mkdir()
    assert split_arm("model:yarn") == ("model:yarn", None)


def arms_of(results, model: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in results.rows:
        if row.model == model:
            found.setdefault(row.arm, []).append(row.length)
    return found


ALL = ("truncated", "window", "window+sinks", *ROTATIONS)


def test_rows_of_all_arms(checkpoints: dict[str, str], text: Text) -> None:  # noqa: F811
    llama, converted = checkpoints["llama"], checkpoints["llama-alibi"]
    lengths = (12, OLD_MAX, 36, 48)
    results, record = evaluate(asked([llama, converted], lengths, text, baseline=llama, arms=(*ALL, "window:12")))
    arms = arms_of(results, llama)
    assert arms == {"full": list(lengths), **{arm: [36, 48] for arm in ALL}, "window:12": [24, 36, 48]}
    assert arms_of(results, converted) == {"full": list(lengths)}
    assert all(row.status == "ok" for row in results.rows)
    keys = list(record)
    assert all(record[key].same_tokens(record[keys[0]]) for key in keys)
    at = {(row.arm, row.length): row for row in results.rows if row.model == llama}
    assert at["yarn", 36].arm_settings == {"factor": 1.5} and at["linear", 48].arm_settings == {"factor": 2.0}
    assert at["window+sinks", 48].arm_settings == {"window": 20, "sinks": 4} and at["full", 48].arm_settings is None
    assert len({at[arm, 48].nll for arm in ("full", *ALL)}) == len(ALL) + 1  # none is another in disguise
    again, _ = evaluate(asked([llama], lengths, text, arms=("window+sinks",)))  # alone, in another order of arms
    assert [row.nll for row in again.rows if row.arm != "full"] == [at["window+sinks", n].nll for n in (36, 48)]
    against = {c.baseline_arm for c in results.contrasts if c.baseline == llama and c.length == 48}
    assert against == {"full", *ALL, "window:12"}


def test_arms_on_and_off(checkpoints: dict[str, str], text: Text) -> None:  # noqa: F811
    llama, gpt2, converted = checkpoints["llama"], checkpoints["gpt2"], checkpoints["llama-alibi"]
    assert set(arms_of(evaluate(asked([llama], LENGTHS, text))[0], llama)) == {"full", "truncated"}
    assert set(arms_of(evaluate(asked([llama], LENGTHS, text, arms=()))[0], llama)) == {"full"}
    one, _ = evaluate(asked([gpt2, converted], LENGTHS, text, baseline=f"{gpt2}:truncated", arms=()))
    assert arms_of(one, gpt2) == {"full": list(LENGTHS), "truncated": [48]}
    against = {(c.length, c.baseline_arm) for c in one.contrasts if c.baseline == gpt2}
    assert against == {(12, "full"), (24, "full"), (48, "truncated")}


@pytest.mark.parametrize(
    ("family", "arm", "says"),
    [
        ("gpt2", "linear", "no rotary positions"),
        ("gpt2", "window", "embeddings for 24 positions"),
        ("gpt2", "window:24", "embeddings for 24 positions"),
        ("gpt2", "window:12", None),
        ("gptj", "window+sinks:12", "attention interface"),
        ("falcon", "window", "attention interface"),
        ("falcon", "yarn", None),
        ("mistral", "window+sinks", "a window of 7 tokens of their own"),
        ("mistral", "window:5", None),
        ("llama-yarn", "dynamic", "rope_type yarn"),
        ("llama-yarn", "window", None),
    ],
)
def test_what_a_model_cannot_have_is_a_line_with_its_name(
    family: str, arm: str, says: str | None, tmp_path: Path
) -> None:
    folder = save_tiny(family, tmp_path / "the-model")
    options = ["--lengths", "12,24", "--max-segments", "2", "--arms", arm]
    result = alibi_inside("eval", folder, *options, code=0 if says is None else 2)
    if says is not None:
        assert says in result.stderr and "the-model" in result.stderr and f"the arm {arm}" in result.stderr
        assert result.stdout == "" and "Traceback" not in result.stderr


def test_converted_models_have_no_arms(checkpoints: dict[str, str], text: Text) -> None:  # noqa: F811
    converted = checkpoints["llama-alibi"]
    with pytest.raises(AlibiError, match="all of these are converted") as error:
        evaluate(asked([converted], LENGTHS, text, arms=("window",)))
    assert error.value.exit_code == 2
    with pytest.raises(AlibiError, match="it is converted"):
        evaluate(asked([converted], LENGTHS, text, baseline=f"{converted}:window"))
    model = tiny_model("llama")
    apply_alibi(model, 64)
    with pytest.raises(AlibiError, match="ALiBi"), arm_of(model, "window", trained_length=24, length=48):
        pass


def test_a_model_some_of_whose_layers_attend_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    layer = model.model.layers[1].self_attn
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(AlibiError, match="1 of its 2 layers"), arm_of(model, "window", trained_length=24, length=48):
        pass
    assert model.config._attn_implementation == "sdpa"


def contrast(arm: str, delta: float, spread: float = 0.01, length: int = 48, baseline: str = "o") -> Contrast:
    ci = None if math.isnan(spread) else (delta - spread, delta + spread)
    return Contrast(
        model="m", baseline=baseline, length=length, baseline_length=length if baseline == "o" else 12,
        baseline_arm=arm, delta_nll=delta, perplexity_ratio=1.0, ci95=ci, verdict="",
    )  # fmt: skip


def test_verdicts() -> None:
    longer = contrast("full", -1.8, baseline="m")
    ruined, collapsed = contrast("full", 6.9, length=48), contrast("full", -0.5)
    assert in_words(longer, [longer]) == "uses longer context"
    assert in_words(longer, [longer, ruined]) == "improves with length, and is 6.9 nats above its baseline"
    best = contrast("truncated", 2.3)
    assert in_words(longer, [longer, collapsed, best]).endswith("is 2.3 nats above its baseline (truncated)")
    assert in_words(longer, [longer, contrast("full", 2.3, length=24)]).endswith("above its baseline at 24")
    # By the interval, not the mean: one that reaches 0.1 nats or less is not far.
    assert in_words(longer, [longer, contrast("full", 0.5, spread=0.45)]) == "uses longer context"
    assert in_words(longer, [longer, contrast("full", 0.5, spread=0.35)]).startswith("improves with length")
    assert in_words(longer, [longer, contrast("full", 6.9, spread=math.nan)]) == "uses longer context"
    assert in_words(contrast("full", 1.8, baseline="m"), [ruined]) == "degrades"
    for delta, word in ((-0.1, "better than yarn"), (0.1, "worse than yarn"), (0.001, "no better than yarn")):
        assert in_words(contrast("yarn", delta), []) == word
    assert in_words(contrast("yarn", -0.1, spread=math.nan), []) == "one document: no interval"
    arms = [contrast("window+sinks", -0.005), contrast("yarn", -0.3), contrast("truncated", -0.2)]
    assert in_words(collapsed, arms[1:]) == "improves"
    assert in_words(collapsed, arms) == "improves, but is no better than window+sinks"
    assert in_words(collapsed, [*arms, best]) == "improves, but is worse than truncated"
    assert in_words(ruined, arms) == "degrades"


def test_a_ruined_model_is_not_praised(text: Text, tmp_path: Path) -> None:  # noqa: F811
    """End to end, with intervals from real rows: a baseline against a model whose weights are too large, that gains by length."""
    from alibi_cli.evaluation.contrasts import contrasts

    good, bad = str(save_tiny("llama", tmp_path / "good")), str(save_tiny("llama", tmp_path / "bad"))
    results, record = evaluate(asked([good, bad], LENGTHS, text, baseline=good))
    for length in LENGTHS:
        for model, nll in ((good, 2.0), (bad, 9.0 - length / 48)):
            key = RowKey(model, "full", length)
            noise = np.random.default_rng(length).normal(0, 0.1, len(record[key].nll))
            record[key].nll[:] = nll + noise
    results.contrasts = []
    words = {(c.length, c.baseline): c.verdict for c in contrasts(results, good)}
    assert words[24, bad] == "improves with length, and is 6.5 nats above its baseline"
    assert words[24, good] == "degrades"


def test_a_file_of_0_1_0_is_read(tmp_path: Path) -> None:
    """Written by 0.1.0 at commit 1c5fef8, with rows of the arm "crop" and digests over that word."""
    path = tmp_path / "old.json"
    shutil.copy(OLD_FILE, path)
    shutil.copy(OLD_FILE.with_suffix(".nll.safetensors"), path.with_suffix(".nll.safetensors"))
    written = json.loads(path.read_text())
    assert {row["arm"] for row in written["rows"]} == {"full", "crop"}
    results = load_results(path)
    assert [row.arm for row in results.rows] == [
        {"crop": "truncated"}.get(row["arm"], row["arm"]) for row in written["rows"]
    ]
    assert set(results.record) == {row.key for row in results.rows if row.status == "ok"}
    results.plot(tmp_path / "old.svg")
    for row in written["rows"]:
        if row["arm"] == "crop":
            row["nll"] += 1e-3
    path.write_text(json.dumps(written))
    with pytest.raises(AlibiError, match="was changed after"):
        load_results(path)


def test_a_file_of_0_1_0_is_resumed(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:  # noqa: F811
    """As it would look on this machine: old words, digests over them, no new keys."""
    from safetensors.numpy import save_file

    from alibi_cli.evaluation import results_file

    llama, path = checkpoints["llama"], tmp_path / "r.json"
    before, record = evaluate(asked([llama], LENGTHS, text, output=path))
    written = json.loads(path.read_text())
    for row, new in zip(written["rows"], before.rows, strict=True):
        del row["arm_settings"]
        if row["arm"] == "truncated":
            row["arm"] = "crop"
            row["sha256"] = results_file.digest(new.model_copy(update={"arm": "crop"}), record[new.key])
    path.write_text(json.dumps(written))
    losses = path.with_suffix(".nll.safetensors")
    tensors, n_bytes = {}, {}
    for key, scored in record.items():
        old = "|".join(map(str, key)).replace("|truncated|", "|crop|")
        n_bytes[old] = scored.n_bytes
        tensors |= {f"{old}|{name}": getattr(scored, name) for name in results_file.FIELDS}
    save_file(tensors, losses, metadata={"n_bytes": json.dumps(n_bytes)})
    seen: list[str] = []
    request = asked([llama], LENGTHS, text, output=path, resume=True, arms=("truncated", "window"))
    after, _ = evaluate(request, lambda what, *_: seen.append(what))
    assert {what.split(" at ")[0] for what in seen if " at " in what} == {f"{llama}:window"}  # the new arm alone
    assert [row for row in after.rows if row.arm != "window"] == before.rows
    assert {row["arm"] for row in json.loads(path.read_text())["rows"]} == {"full", "truncated", "window"}


def test_labels_of_lengths_have_room() -> None:
    assert labelled([512, 1024, 2048, 4096, 8192]) == [512, 1024, 2048, 4096, 8192]
    crowded = [512, 768, 1000, 1024, 1100, 8192, 9000, 16384]
    kept = labelled(crowded)
    gaps = np.diff(np.log(kept)) / math.log(crowded[-1] / crowded[0])
    assert kept[-1] == 16384 and set(kept) < set(crowded) and gaps.min() >= APART
    assert labelled([512]) == [512]


def test_a_picture_of_all_arms(checkpoints: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    picture = tmp_path / "r.svg"
    command = ["eval", checkpoints["llama-alibi"], "--baseline", f"{checkpoints['llama']}:window+sinks"]
    arms = ["--arms", ",".join(ALL), "--lengths", "24,36,48", "--max-segments", "20", "--plot", picture]
    result = alibi_inside(*command, *arms)
    assert "llama:window+sinks" in result.stdout and "latest 20 tokens and first 4" in result.stdout
    assert "factor 1.5" in result.stdout and "than window+sinks" in result.stdout and "than yarn" not in result.stdout
    drawn = picture.read_text()
    assert drawn.startswith("<?xml") and all(f":{arm}" in drawn for arm in ALL)


def test_encoders_are_refused_windows() -> None:
    assert {limits_of(skeleton(family), True).no_window for family in FAMILIES if is_encoder(skeleton(family))} == {
        "windows are for models that predict the next token"
    }
    assert Limits() == Limits(None, None, None)
