"""Composer's ALiBi, row by row (docs/prior-implementations.md): apply_alibi, the helpers for policies, batches, and a user's way."""

import copy
import inspect
import math
import re

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BatchEncoding,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaModel,
)

from alibi_cli import (
    AlibiPositionalBias,
    PolicyRegistry,
    apply_alibi,
    get_biases,
    get_slopes,
    policy_registry,
    register_alibi,
    replace_module_classes,
    scale_train_sequence_length,
    zero_and_freeze_expand_position_embeddings,
)
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from alibi_cli.runtime.alibi_positions import NoPosition
from tests.conftest import REPOSITORY
from tests.models import OLD_MAX, sample_tokens, tiny_config, tiny_model
from tests.reference.textbook import textbook_logits

BAD_LENGTHS = [0, -1, None, 2.5, True, "8"]


def held(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, steps: int) -> list[float]:
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_users_journey_from_optimizer_to_reload(family: str, tmp_path) -> None:
    """Optimizer, surgery, training on scaled batches, saving, loading by name: Composer's converters say that this will not work."""
    model = tiny_model(family, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = [p.clone() for p in model.parameters()]
    apply_alibi(model, 4 * OLD_MAX, optimizers=optimizer)
    batch = scale_train_sequence_length({"input_ids": sample_tokens(2, 4 * OLD_MAX)}, 0.25)
    assert batch["input_ids"].shape == (8, OLD_MAX)
    losses = train(model, optimizer, batch["input_ids"], 8)
    assert losses[-1] < losses[0] and len(held(optimizer)) < len(before)
    model.save_pretrained(tmp_path)
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    reloaded = auto.from_pretrained(tmp_path, trust_remote_code=True).eval()
    tokens = sample_tokens(1, 4 * OLD_MAX)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        assert torch.equal(reloaded(input_ids=tokens).logits, expected)
        untrained = tiny_model(family, torch.float32)
        apply_alibi(untrained, 4 * OLD_MAX)
        assert not torch.allclose(untrained(input_ids=tokens).logits, expected, atol=1e-2)


def test_c1_in_place_with_a_length_and_nothing_else() -> None:
    model = tiny_model("gpt2")
    attention = model.transformer.h[0].attn
    assert apply_alibi(model, 64) is None
    assert model.transformer.h[0].attn is attention and attention.alibi_slopes == get_slopes(6)


def test_c2_examples_in_the_readme_run(tiny_gpt2, tmp_path, monkeypatch) -> None:
    from alibi_cli import convert

    readme = (REPOSITORY / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    snippets = re.findall(r"`(from alibi_cli import [^`]+)`", readme)
    assert blocks and snippets
    monkeypatch.chdir(tmp_path)
    convert(str(tiny_gpt2), tmp_path / "llama-kept")
    for text in (*blocks, *snippets):
        exec(text, {"model": tiny_model("gpt2")})
    assert [*inspect.signature(apply_alibi).parameters][:3] == ["model", "max_sequence_length", "optimizers"]


def test_c6_every_attention_module_has_its_slopes() -> None:
    model = tiny_model("gpt2", num_hidden_layers=5)
    apply_alibi(model, 64)
    assert sum(getattr(module, "alibi_slopes", None) is not None for module in model.modules()) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [3, 8, 20])
def test_c8_the_table_is_zeros_frozen_and_of_the_length(rows: int, dtype: torch.dtype) -> None:
    model = GPT2LMHeadModel(tiny_config("gpt2")).to(dtype)
    assert zero_and_freeze_expand_position_embeddings(model.transformer, rows, "wpe") is None
    table = model.transformer.wpe
    assert table.weight.shape == (rows, 48) and table.num_embeddings == rows and table.weight.dtype == dtype
    assert not table.weight.requires_grad and not table.weight.any() and isinstance(table.weight, nn.Parameter)
    model(input_ids=sample_tokens(1, rows), labels=sample_tokens(1, rows)).loss.backward()
    assert table.weight.grad is None
    with pytest.raises(IndexError):
        model(input_ids=sample_tokens(1, rows + 1))


def test_c8_the_config_declares_the_new_length() -> None:
    model = tiny_model("gpt2")
    apply_alibi(model, 96)
    assert model.config.n_positions == model.config.max_position_embeddings == 96
    assert isinstance(model.transformer.wpe, NoPosition)


def test_c9_bert_runs_beyond_its_old_maximum_with_no_buffer_in_the_state_dict() -> None:
    model = tiny_model("bert")
    apply_alibi(model, 96)
    assert torch.isfinite(model(input_ids=sample_tokens(1, 96)).logits).all()
    assert not [name for name in model.state_dict() if "position" in name or "token_type_ids" in name]


def test_c11_padding_and_offset_rows_come_on_top_of_the_length() -> None:
    config = RobertaConfig(**tiny_config("roberta", max_position_embeddings=8).to_dict())
    model = RobertaModel(config, add_pooling_layer=False)
    for length in (16, 5):
        zero_and_freeze_expand_position_embeddings(model, length, "embeddings.position_embeddings")
        longest, longer = (torch.zeros(1, n, dtype=torch.long) for n in (length, length + 1))
        tokens = sample_tokens(1, length)
        assert model(input_ids=tokens, token_type_ids=longest).last_hidden_state.shape[1] == length
        with pytest.raises(IndexError):
            model(input_ids=sample_tokens(1, length + 1), token_type_ids=longer)
    opt = tiny_model("opt")
    zero_and_freeze_expand_position_embeddings(opt, 50, "model.decoder.embed_positions")
    assert opt(input_ids=sample_tokens(1, 50)).logits.shape[1] == 50
    assert opt.model.decoder.embed_positions.weight.shape[0] == 52


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12])
def test_c12_c13_row_and_matrix_hold_the_same_textbook_bias(heads: int) -> None:
    length = 70
    row = register_alibi(nn.Linear(2, 2), heads, length, causal=True).alibi
    matrix = register_alibi(nn.Linear(2, 2), heads, length, causal=False).alibi
    assert row.shape == (heads, 1, length) and matrix.shape == (1, heads, length, length)
    assert torch.equal(row[:, 0], get_biases(heads, length)) and torch.equal(matrix, matrix.transpose(-1, -2))
    visible = torch.ones(length, length).tril().bool()
    own = row[:, 0, :, None]  # the row's value at the query, which softmax cannot see
    assert torch.allclose((row - own)[:, visible], matrix[0][:, visible], atol=1e-5)
    assert not torch.allclose((row - own)[:, ~visible], matrix[0][:, ~visible], atol=1e-5)
    scores = torch.randn(heads, length, length).masked_fill(~visible, -torch.inf)
    assert torch.allclose((scores + row).softmax(-1), (scores + matrix[0]).softmax(-1), atol=1e-5)


def test_c12_c13_the_buffer_is_float32_and_not_saved() -> None:
    for causal in (True, False):
        module = nn.Linear(2, 2).half()
        assert register_alibi(module, 4, 16, causal) is module
        assert module.alibi.dtype == torch.float32 and "alibi" in dict(module.named_buffers())
        assert set(module.state_dict()) == {"weight", "bias"} and len(list(module.parameters())) == 2
    assert "alibi" in dict(register_alibi(nn.Linear(2, 2, device="meta"), 4, 16, True).named_buffers())
    assert register_alibi(nn.Linear(2, 2, device="meta"), 4, 16, True).alibi.device.type == "meta"


def test_c15_inputs_longer_than_declared_run_and_a_length_of_one_is_no_special_case() -> None:
    tokens, expected = sample_tokens(1, 30), None
    for length in (1, 16, 4096):
        model = tiny_model("gpt2")
        apply_alibi(model, length)
        logits = model(input_ids=tokens).logits
        expected = logits if expected is None else expected
        assert torch.equal(logits, expected)


def test_c19_the_bias_reaches_the_logits_whatever_attention_the_model_had() -> None:
    tokens, found = sample_tokens(2, 20), []
    for implementation in ("eager", "sdpa"):
        model = tiny_model("gpt2")
        model.set_attn_implementation(implementation)
        stock = copy.deepcopy(model)
        apply_alibi(model, 64)
        found.append(model(input_ids=tokens).logits)
        assert (found[-1] - textbook_logits(stock, tokens)).abs().max() <= 1e-10
        for attention in model.modules():
            if getattr(attention, "alibi_slopes", None) is not None:
                attention.alibi_slopes = [0.0] * 6
        assert (model(input_ids=tokens).logits - found[-1]).abs().max() > 1e-3  # it is the bias that does it
    assert torch.equal(*found) and model.config._attn_implementation == ATTENTION_NAME


@pytest.mark.parametrize("groups", [1, 2])
def test_c22_optimizer_is_updated_in_place(groups: int) -> None:
    model = tiny_model("gpt2", torch.float32)
    wpe, tokens = model.transformer.wpe.weight, sample_tokens(2, 16)
    everything = list(model.parameters())
    half = len(everything) // 2
    parts = [everything] if groups == 1 else [everything[:half], everything[half:]]
    optimizer = torch.optim.Adam([{"params": part} for part in parts], lr=1e-2)
    train(model, optimizer, tokens, 2)
    assert wpe in optimizer.state
    apply_alibi(model, 64, optimizers=optimizer)
    assert {id(p) for p in held(optimizer)} == {id(p) for p in model.parameters()} and wpe not in optimizer.state
    losses = train(model, optimizer, tokens, 10)
    assert losses[-1] < losses[0]
    left_alone = tiny_model("gpt2", torch.float32)
    other = torch.optim.Adam(left_alone.parameters())
    apply_alibi(left_alone, 64)  # the control: without the argument, the removed table stays in the optimizer
    assert {id(p) for p in held(other)} != {id(p) for p in left_alone.parameters()}


def test_c22_optimizers_that_do_not_fit() -> None:
    model = tiny_model("gpt2")
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    with pytest.raises(NotImplementedError):
        apply_alibi(model, 64, optimizers=[optimizer, optimizer])
    assert type(model) is GPT2LMHeadModel  # refused before anything is changed
    for other in (
        torch.optim.SGD(model.lm_head.parameters(), lr=1),
        torch.optim.SGD([{"params": [p]} for p in model.transformer.h.parameters()], lr=1),
    ):
        with pytest.raises(RuntimeError, match="not in the optimizer"):
            apply_alibi(copy.deepcopy(model), 64, optimizers=other)
    model.transformer.wpe.weight.requires_grad = False
    frozen = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1)
    apply_alibi(model, 64, optimizers=iter([frozen]))
    assert {id(p) for p in held(frozen)} == {id(p) for p in model.parameters()}


def test_c23_the_helpers_can_be_applied_again() -> None:
    model, linear = GPT2LMHeadModel(tiny_config("gpt2")), nn.Linear(2, 2)
    for length in (16, 16, 32):
        zero_and_freeze_expand_position_embeddings(model, length, "transformer.wpe")
        register_alibi(linear, 4, length, causal=True)
        assert model.transformer.wpe.weight.shape == (length, 48) and linear.alibi.shape == (4, 1, length)
        assert not model.transformer.wpe.weight.requires_grad and not model.transformer.wpe.weight.any()


def batch_of(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * length).reshape(rows, length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids - 1}


@pytest.mark.parametrize(
    ("shape", "scaling", "expected"),
    [
        ((8, 128), 0.25, (32, 32)),
        ((8, 128), 1.0, (8, 128)),
        ((2, 9), 1 / 3, (6, 3)),
        ((4, 8), 0.5, (8, 4)),
        ((3, 8), 0.75, (4, 6)),
        ((8, 16), 2, (4, 32)),
    ],
)
def test_c25_batches_are_cut_row_by_row(shape: tuple[int, int], scaling: float, expected: tuple[int, int]) -> None:
    batch = batch_of(*shape)
    scaled = scale_train_sequence_length(batch, scaling)
    assert list(scaled) == list(batch) and batch["input_ids"].shape == shape
    for name, field in scaled.items():
        assert field.shape == expected and torch.equal(field.flatten(), batch[name].flatten())
    if scaling <= 1:
        assert torch.equal(scaled["input_ids"][0], batch["input_ids"][0, : expected[1]])
        wrong = batch["input_ids"].T.reshape(expected)
        assert not torch.equal(wrong[0], batch["input_ids"][0, : expected[1]])


def test_c25_other_kinds_of_batches_and_fields() -> None:
    encoding = scale_train_sequence_length(BatchEncoding(batch_of(2, 8)), 0.25)
    assert isinstance(encoding, BatchEncoding) and encoding["labels"].shape == (8, 2)
    embeds = torch.randn(2, 8, 3)
    scaled = scale_train_sequence_length({"inputs_embeds": embeds, "labels": None}, 0.5)
    assert scaled["labels"] is None and torch.equal(scaled["inputs_embeds"][1], embeds[0, 4:])


@pytest.mark.parametrize(
    ("batch", "scaling", "error", "says"),
    [
        (batch_of(2, 10), 0.25, ValueError, r"input_ids has shape \(2, 10\).*whole number"),
        (batch_of(3, 8), 0.3, ValueError, "input_ids .*whole number"),
        (batch_of(3, 8), 2, ValueError, "input_ids .*whole rows of 16"),
        (batch_of(3, 8), 0.01, ValueError, "input_ids"),
        (
            {**batch_of(2, 8), "labels": torch.zeros(2)},
            0.5,
            ValueError,
            r"labels has shape \(2,\), one value per sequence",
        ),
        ({**batch_of(2, 8), "loss_mask": torch.zeros(2, 1, 8, 8)}, 1, ValueError, "loss_mask .*queries and keys"),
        ({**batch_of(2, 8), "names": ["a", "b"]}, 0.5, TypeError, "names is a list"),
        ([torch.zeros(2, 8)], 0.5, TypeError, "a list"),
        *((batch_of(2, 8), bad, ValueError, "scaling must be positive") for bad in (0, -0.5, math.nan, math.inf, True)),
    ],
)
def test_c25_what_does_not_divide_is_refused_by_name(batch, scaling, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        scale_train_sequence_length(batch, scaling)


def test_c27_a_registered_policy_is_used_and_can_be_taken_out_again() -> None:
    """Composer's test of its registry: a class that surgery did not reach is reached once a policy is registered for it."""

    class Custom(nn.Module):
        pass

    def change(module: nn.Module, module_index: int, max_sequence_length: int):
        return register_alibi(module, 4, max_sequence_length, causal=True)

    registry, model = PolicyRegistry(), nn.Sequential(Custom())
    assert registry.register(Custom)(change) is change and Custom not in policy_registry
    policies = {cls: lambda m, i, policy=policy: policy(m, i, 32) for cls, policy in registry.items()}
    assert len(replace_module_classes(model, policies)) == 1 and model[0].alibi.shape == (4, 1, 32)
    del registry[Custom]
    assert not registry


@pytest.mark.parametrize("bad", BAD_LENGTHS)
def test_c37_lengths_that_make_no_sense(bad) -> None:
    with pytest.raises(ValueError, match="max_sequence_length must be a positive integer"):
        zero_and_freeze_expand_position_embeddings(nn.Sequential(nn.Embedding(4, 2)), bad, "0")


def test_c37_attributes_that_do_not_fit() -> None:
    model = nn.Module()
    model.inner = nn.Sequential(nn.Embedding(4, 2), nn.ReLU(), nn.Module(), nn.LayerNorm(3))
    model.inner[2].weight = torch.zeros(4, 2)
    zero_and_freeze_expand_position_embeddings(model, 9, "inner.0")
    assert model.inner[0].weight.shape == (9, 2)
    for missing in ("wpe", "inner.7", "inner.0.wpe", "inner.1", ""):
        with pytest.raises(AttributeError, match="No position embedding"):
            zero_and_freeze_expand_position_embeddings(model, 9, missing)
    for wrong in ("inner.2", "inner.3"):
        with pytest.raises(TypeError, match=r"must be a torch.nn.Parameter of two dimensions"):
            zero_and_freeze_expand_position_embeddings(model, 9, wrong)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bad", BAD_LENGTHS)
def test_c38_numbers_that_make_no_sense(bad, causal: bool) -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="number of heads"):
        register_alibi(module, bad, 8, causal)
    with pytest.raises(ValueError, match="max_token_length"):
        register_alibi(module, 4, bad, causal)
    assert not hasattr(module, "alibi")


def test_c38_modules_without_parameters_and_with_another_alibi() -> None:
    assert register_alibi(nn.ReLU(), 4, 8, causal=True).alibi.shape == (4, 1, 8)
    module = nn.Linear(2, 2)
    module.alibi = 3
    with pytest.raises(ValueError, match="already has an attribute alibi"):
        register_alibi(module, 4, 8, causal=True)
    with pytest.raises(ValueError, match="causal must be True or False"):
        register_alibi(nn.Linear(2, 2), 4, 8, causal=None)
    assert torch.equal(register_alibi(nn.ReLU(), 4, 8, causal=False).alibi[0], AlibiPositionalBias(4)(8, 8))
