"""Traps: cross-attention, encoders' buffers, per-layer slopes, packing, checkpointing, what must be refused."""

import copy

import pytest
import torch
from transformers import BertLMHeadModel, BertModel, GPT2LMHeadModel, GPT2Model, LlamaForCausalLM

from alibi_cli import apply_alibi, get_slopes
from alibi_cli.runtime.alibi_positions import NoPosition
from tests.models import OLD_MAX, sample_tokens, tiny_config, tiny_model
from tests.reference.textbook import textbook_logits


def test_roberta_uses_the_whole_declared_length() -> None:
    model = tiny_model("roberta")
    apply_alibi(model, 40)
    assert model.config.max_position_embeddings == 40
    for length in (
        39,
        40,
        41,
    ):  # nothing is sized by the declared length, so nothing breaks one token before or after it
        assert torch.isfinite(model(input_ids=sample_tokens(1, length)).logits).all()


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_token_types_given_or_not_are_the_same(name: str) -> None:
    model = tiny_model(name)
    apply_alibi(model, 64)
    tokens = sample_tokens(2, 3 * OLD_MAX)
    zeros = torch.zeros_like(tokens)
    expected = model(input_ids=tokens, token_type_ids=zeros).logits
    assert torch.equal(model(input_ids=tokens).logits, expected)
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(tokens)).logits, expected)
    if model.config.type_vocab_size > 1:
        assert not torch.equal(model(input_ids=tokens, token_type_ids=zeros + 1).logits, expected)


def test_gpt2_cross_attention_is_untouched() -> None:
    config = tiny_config("gpt2", add_cross_attention=True)
    model = GPT2LMHeadModel(config).double().eval()
    apply_alibi(model, 64)
    tokens, memory = sample_tokens(1, 9), torch.randn(1, 7, 48, dtype=torch.float64)
    expected = model(input_ids=tokens, encoder_hidden_states=memory).logits
    shuffled = memory[:, torch.tensor([3, 1, 6, 0, 2, 5, 4])]
    assert (model(input_ids=tokens, encoder_hidden_states=shuffled).logits - expected).abs().max() <= 1e-12
    cross = [m for n, m in model.named_modules() if n.endswith("crossattention")]
    assert cross and not any(hasattr(m, "alibi_slopes") for m in cross)
    padding = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    masked = model(input_ids=tokens, encoder_hidden_states=memory, encoder_attention_mask=padding).logits
    assert (masked - model(input_ids=tokens, encoder_hidden_states=memory[:, :5]).logits).abs().max() <= 1e-12
    assert (masked - expected).abs().max() > 1e-3


def test_bert_as_a_decoder_is_causal_and_cached_equals_uncached() -> None:
    model = BertLMHeadModel(tiny_config("bert", is_decoder=True)).double().eval()
    apply_alibi(model, 64)
    tokens = sample_tokens(1, 30)
    whole = model(input_ids=tokens, use_cache=False).logits
    first = model(input_ids=tokens[:, :20], use_cache=True)
    second = model(input_ids=tokens[:, 20:], past_key_values=first.past_key_values, use_cache=True)
    assert (torch.cat([first.logits, second.logits], 1) - whole).abs().max() <= 1e-10


@pytest.mark.parametrize("cls", [GPT2Model, BertModel])
def test_a_bare_model_as_root_loses_its_positions(cls: type) -> None:
    model = cls(tiny_config("gpt2" if cls is GPT2Model else "bert")).double().eval()
    apply_alibi(model, 96)
    assert any(isinstance(module, NoPosition) for module in model.modules())
    assert not any(part in key for key in model.state_dict() for part in ("wpe", "position_embeddings"))
    assert type(model).__name__ == f"Alibi{cls.__name__}"
    assert model(input_ids=sample_tokens(1, 90)).last_hidden_state.shape[1] == 90


def test_a_model_inside_another_module_is_converted() -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model("gpt2")

    wrapper = Wrapper()
    apply_alibi(wrapper, 64)
    assert type(wrapper.model).__name__ == "AlibiGPT2LMHeadModel"


def test_slopes_per_layer() -> None:
    stock = tiny_model("llama")
    slopes = [get_slopes(6), [m / 3 for m in get_slopes(6)]]
    converted = copy.deepcopy(stock)
    apply_alibi(converted, 64, slopes=slopes)
    tokens = sample_tokens(2, 20)
    ours = converted(input_ids=tokens).logits
    assert (ours - textbook_logits(stock, tokens, slopes)).abs().max() <= 1e-10
    assert (ours - textbook_logits(stock, tokens, slopes[::-1])).abs().max() > 1e-3


def test_converting_twice_changes_the_declared_length_and_nothing_else() -> None:
    model = tiny_model("gpt2")
    apply_alibi(model, 64)
    before, tokens = copy.deepcopy(model.state_dict()), sample_tokens(1, 50)
    expected = model(input_ids=tokens).logits
    apply_alibi(model, 128)
    assert model.config.alibi_max_sequence_length == 128
    assert list(before) == list(model.state_dict())
    assert torch.equal(model(input_ids=tokens).logits, expected)


@pytest.mark.parametrize("settings", [{}, {"sinks": 3}, {"policy": "add"}, {"policy": "add", "sinks": 3}], ids=str)
def test_packed_sequences_equal_separate_ones(settings: dict) -> None:
    model = tiny_model("llama")
    apply_alibi(model, 64, **settings)
    a, b = sample_tokens(1, 9, seed=1), sample_tokens(1, 14, seed=2)
    packed = model(
        input_ids=torch.cat([a, b], 1),
        position_ids=torch.cat([torch.arange(9), torch.arange(14)])[None],
        use_cache=False,
    ).logits
    assert (packed[:, :9] - model(input_ids=a).logits).abs().max() <= 1e-12
    assert (packed[:, 9:] - model(input_ids=b).logits).abs().max() <= 1e-12


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model("llama").train()
        apply_alibi(model, 64)
        if checkpointing:
            model.gradient_checkpointing_enable()
        tokens = sample_tokens(2, 20)
        model(input_ids=tokens, labels=tokens).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_compiled_equals_eager() -> None:
    model = tiny_model("gpt2")
    apply_alibi(model, 64)
    tokens = sample_tokens(2, 30)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert (
            compiled(input_ids=tokens, use_cache=False).logits - model(input_ids=tokens, use_cache=False).logits
        ).abs().max() <= 1e-12


def test_other_attention_implementations_are_refused() -> None:
    model = tiny_model("llama")
    apply_alibi(model, 64)
    for name in ("flash_attention_2", "flex_attention"):
        with pytest.raises(ValueError, match="drop the bias"):
            model.set_attn_implementation(name)
    tokens = sample_tokens(1, 9)
    expected = model(input_ids=tokens).logits
    model.set_attn_implementation("sdpa")  # asked for by many scripts; means the converted model's own attention
    assert torch.equal(model(input_ids=tokens).logits, expected)


def test_nothing_changed_is_an_error() -> None:
    with pytest.raises(ValueError, match="changed nothing"):
        apply_alibi(torch.nn.Linear(3, 3), 64)
    from transformers import XLNetConfig, XLNetLMHeadModel

    model = XLNetLMHeadModel(XLNetConfig(vocab_size=11, d_model=8, n_layer=1, n_head=2, d_inner=8))
    before = type(model)
    with pytest.raises(ValueError, match="changed nothing"):
        apply_alibi(model, 64)
    assert type(model) is before


@pytest.mark.parametrize("length", [0, -5, 2.5, True, None])
def test_bad_lengths_are_refused(length) -> None:
    with pytest.raises(ValueError, match="max_sequence_length"):
        apply_alibi(tiny_model("gpt2"), length)


@pytest.mark.parametrize("slopes", [[0.5], [], [[0.5] * 6], [-0.5] * 6, [float("nan")] * 6])
def test_slopes_that_do_not_fit_are_refused(slopes) -> None:
    with pytest.raises(ValueError, match="alibi_slopes"):
        apply_alibi(tiny_model("gpt2"), 64, slopes=slopes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"policy": "add", "sinks": 3}], ids=str)
@pytest.mark.parametrize("family", ["llama", "gptj", "codegen", "falcon", "t5"])
def test_half_precision_stays_half_and_close(dtype: torch.dtype, settings: dict, family: str) -> None:
    exact = tiny_model(family, torch.float32)
    apply_alibi(exact, 256, **settings)
    half = copy.deepcopy(exact).to(dtype)
    tokens = sample_tokens(1, 200)
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if family == "t5" else {})
    assert half(**inputs).logits.dtype == dtype
    distributions = [torch.softmax(model(**inputs).logits.float(), -1) for model in (exact, half)]
    assert (distributions[0] - distributions[1]).abs().sum(-1).mean() < 0.1


def test_optimizer_follows_the_surgery() -> None:
    model = tiny_model("gpt2", torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    wpe = model.transformer.wpe.weight
    apply_alibi(model, 64, optimizers=optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p is not wpe for p in held) and len(held) == len(list(model.parameters()))
    tokens = sample_tokens(2, 20)
    losses = []
    for _ in range(15):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_save_pretrained_after_surgery_in_memory_is_self_contained(tmp_path) -> None:
    model = LlamaForCausalLM(tiny_config("llama"))
    apply_alibi(model, 64)
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    from alibi_cli.runtime import RUNTIME_FILES

    assert set(RUNTIME_FILES) <= names
    from transformers import AutoModel, AutoModelForCausalLM

    tokens = sample_tokens(1, 50)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(reloaded(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits)
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=True)).__name__ == "AlibiLlamaModel"


def test_switching_the_attention_of_a_part_is_refused_too() -> None:
    class Mine(LlamaForCausalLM):
        pass

    tokens = sample_tokens(1, 9)
    whole, mine = LlamaForCausalLM(tiny_config("llama")), Mine(tiny_config("llama"))
    for model, part in ((whole, whole.model), (mine, mine)):
        apply_alibi(model, 64)
        model(input_ids=tokens)
        model.config._attn_implementation = "sdpa"
        with pytest.raises(ValueError, match="drop the bias"):
            part(input_ids=tokens)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.float32])
def test_ready_made_masks_are_refused(dtype: torch.dtype) -> None:
    model = tiny_model("llama", torch.float32)
    apply_alibi(model, 64)
    with pytest.raises(ValueError, match="2-D attention mask"):
        model(input_ids=sample_tokens(1, 9), attention_mask=torch.ones(1, 1, 9, 9).tril().to(dtype))
