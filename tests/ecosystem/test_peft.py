"""peft: LoRA and prompt tuning."""

from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.ecosystem.checkpoints import HEADS, SETTINGS, Checkpoint, Way, apart, log_probabilities, text_tokens
from tests.reference.textbook import textbook_logits

TARGETS = {"demo-gpt2": ["c_attn", "c_fc"], "demo-llama": ["q_proj", "v_proj", "up_proj"]}


def trained(model: Any, tokens: torch.Tensor) -> Any:
    """Two steps: a LoRA's second factor begins as zeros."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return model.eval()


def by_hand(
    checkpoint: Checkpoint, adapter: dict[str, torch.Tensor], scale: float, tokens: torch.Tensor
) -> torch.Tensor:
    """The definition, computed from the original with W + scale B A in its weights."""
    stock = AutoModelForCausalLM.from_pretrained(checkpoint.source, dtype=torch.float64)
    for name, module in stock.named_modules():
        if (first := adapter.get(f"base_model.model.{name}.lora_A.default.weight")) is not None:
            second = adapter[f"base_model.model.{name}.lora_B.default.weight"]
            change = scale * second.double() @ first.double()
            module.weight.data += (
                change if change.shape == module.weight.shape and module.__class__.__name__ == "Linear" else change.T
            )
    settings = SETTINGS[checkpoint.name]
    logits = textbook_logits(stock, tokens, keep_positions="policy" in settings, sinks=settings.get("sinks", 0))
    return logits.log_softmax(-1)


def test_lora(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    tokens = text_tokens()
    conv1d = checkpoint.name == "demo-gpt2"
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=TARGETS[checkpoint.name], task_type="CAUSAL_LM", fan_in_fan_out=conv1d
    )
    tuned = trained(get_peft_model(way.model(checkpoint.folder), config), tokens)
    expected = by_hand(checkpoint, tuned.state_dict(), 2.0, tokens)
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", **way.options).eval()
    way.checked(loaded.get_base_model())
    found = {"trained": log_probabilities(tuned, tokens), "reloaded": log_probabilities(loaded, tokens)}
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    found |= {
        "merged": log_probabilities(merged, tokens),
        "saved": log_probabilities(way.model(tmp_path / "merged"), tokens),
    }
    differences = {name: apart(each, expected) for name, each in found.items()}
    control = apart(checkpoint.textbook(tokens), expected)  # without the adapter
    assert max(differences.values()) < 1e-4 < control, differences
    what = "LoRA trained, reloaded by AutoPeftModel, merged, saved: log-probabilities, by the definition with W + BA"
    record("peft", what, max(differences.values()), control)


def test_prompt_tuning(llama: Checkpoint, way: Way, record: Any) -> None:
    tokens, model = text_tokens(), way.model(llama.folder)
    tuned = trained(get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=HEADS)), tokens)
    prompt = tuned.prompt_encoder["default"].embedding.weight[None]
    inputs = torch.cat([prompt, model.get_input_embeddings()(tokens)], dim=1)

    def by_hand(each: Any) -> torch.Tensor:
        with torch.no_grad():
            return each(inputs_embeds=inputs).logits.double().log_softmax(-1)

    found = log_probabilities(tuned, tokens)
    difference, control = apart(found, by_hand(model)), apart(found, by_hand(way.model(llama.steeper)))
    assert difference < 1e-5 < control
    record(
        "peft",
        "prompt tuning: log-probabilities, with the prompt put before the embeddings by hand",
        difference,
        control,
    )
