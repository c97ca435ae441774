"""A complete plug-in: a family that neither transformers nor alibi knows, and its policies.

    alibi convert MY-TOY-CHECKPOINT -o OUT --plugin docs/plugin-example/toy_family.py

The family is a decoder with learned position embeddings. All that alibi needs is at the bottom: three lines that say which module takes
the bias and which one gives up its positions. The file travels in the converted checkpoint, so it imports nothing but torch, transformers
and alibi_cli.runtime.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from alibi_cli.runtime.alibi_policies import drop_position_table, policy_registry, take_bias


class ToyConfig(PreTrainedConfig):
    model_type = "toy"
    vocab_size: int = 257
    hidden_size: int = 32
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    max_position_embeddings: int = 64
    initializer_range: float = 0.2


class ToyAttention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden, mask, cache):
        heads = self.config.num_attention_heads
        query, key, value = (
            x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in self.qkv(hidden).chunk(3, -1)
        )  # (B, H, L, D)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        return self.out(attention(self, query, key, value, mask, scaling=query.shape[-1] ** -0.5)[0].flatten(2))


def eager_attention(module, query, key, value, mask, scaling, **kwargs):
    scores = query @ key.transpose(-1, -2) * scaling
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return (weights @ value).transpose(1, 2), weights


class ToyPreTrainedModel(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True


class ToyModel(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(ToyAttention(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.tokens

    def forward(
        self, input_ids, attention_mask=None, past_key_values=None, position_ids=None, use_cache=None, **kwargs
    ):
        hidden = self.tokens(input_ids)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None] + seen
        hidden = hidden + self.position_embeddings(position_ids)
        mask = create_causal_mask(self.config, hidden, attention_mask, past_key_values, position_ids)
        for layer in self.layers:
            hidden = hidden + layer(self.norm(hidden), mask, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


class ToyForCausalLM(ToyPreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.model = ToyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, labels=None, logits_to_keep=0, **inputs):
        output = self.model(input_ids, **inputs)
        logits = self.lm_head(output.last_hidden_state)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)


AutoConfig.register("toy", ToyConfig, exist_ok=True)
AutoModel.register(ToyConfig, ToyModel, exist_ok=True)
AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM, exist_ok=True)

if ToyAttention not in policy_registry:
    policy_registry.register(ToyAttention)(take_bias)
    policy_registry.register(ToyModel)(drop_position_table)
