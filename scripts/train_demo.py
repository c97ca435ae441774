"""Trains the two demonstration checkpoints under presets/ from the text that CPython carries (see text/python_docs.py).

    python scripts/train_demo.py gpt2  --output presets/demo-gpt2
    python scripts/train_demo.py llama --output presets/demo-llama
    python scripts/train_demo.py other-llama --steps 2000 --batch-size 16 --seed 777 --output build/other-llama

Byte-level models with a context of 512: a GPT-2 (learned position embeddings) and a Llama (rotary positions, grouped-query
attention), each under 4 MB in float32. The other Llama is not in the repository: it has another shape, a context of 256 and another order
of its text, and shows whether a recipe that was found on the first one holds on a model that had no part in finding it.

Only the training documents are read; the held-out ones are scored at the end and the figure is written to training_log.json beside the
weights, with the seed, the versions and the loss curve.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from alibi_cli.text.python_docs import documents

CONTEXT = {"gpt2": 512, "llama": 512, "other-llama": 256}
END_OF_TEXT = "<|endoftext|>"


def byte_tokenizer(context: int) -> PreTrainedTokenizerFast:
    """One token per byte (ids 0-255 in byte-alphabet order) and an end-of-text token (id 256)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def build(family: str, eos: int) -> Any:
    context = CONTEXT[family]
    shared: dict[str, Any] = dict(vocab_size=eos + 1, bos_token_id=eos, eos_token_id=eos, pad_token_id=eos)
    if family == "gpt2":
        drop: dict[str, Any] = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return GPT2LMHeadModel(GPT2Config(n_positions=context, n_embd=128, n_layer=4, n_head=8, **drop, **shared))
    shape: dict[str, Any] = dict(
        hidden_size=128, intermediate_size=352, num_hidden_layers=5, num_attention_heads=8, num_key_value_heads=4
    )
    if family == "other-llama":
        shape = dict(
            hidden_size=144, intermediate_size=400, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=6
        )
    return LlamaForCausalLM(
        LlamaConfig(
            **shape,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            **shared,
        )
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, held_out: bool) -> torch.Tensor:
    """All documents of one side, each followed by the end-of-text token, as one (N,) stream."""
    ids: list[int] = []
    for _, text in documents(held_out):
        ids += [*tokenizer(text, add_special_tokens=False, verbose=False).input_ids, tokenizer.eos_token_id]
    return torch.tensor(ids, dtype=torch.int32)


class RandomWindows(torch.utils.data.Dataset):
    """`size` windows of `context` tokens at random offsets of the stream; the offsets are drawn once from the seed."""

    def __init__(self, stream: torch.Tensor, context: int, size: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.stream, self.context = stream, context
        self.offsets = torch.randint(0, len(stream) - context, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self.stream[self.offsets[index] : self.offsets[index] + self.context].long()
        return {"input_ids": window, "labels": window}


@torch.no_grad()
def held_out_bits_per_byte(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, context: int
) -> tuple[float, int]:
    """Non-overlapping windows of `context` tokens, every byte scored once except the first of a window; one token is one byte."""
    stream = token_stream(tokenizer, held_out=True)
    windows = stream[: len(stream) // context * context].view(-1, context).long()
    total, count = 0.0, 0
    for batch in windows.split(16):
        logits = model(batch).logits[:, :-1].flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum").item()
        count += batch[:, 1:].numel()
    return total / count / math.log(2), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=list(CONTEXT))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=20211)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("build/train_demo"), help="where to keep resumable training state"
    )
    args = parser.parse_args()

    transformers.set_seed(args.seed)
    context = CONTEXT[args.family]
    tokenizer = byte_tokenizer(context)
    model = build(args.family, tokenizer.eos_token_id)
    parameters = sum(p.numel() for p in model.parameters())
    stream = token_stream(tokenizer, held_out=False)
    print(f"{args.family}: {parameters:,} parameters, {len(stream):,} training tokens", flush=True)

    work = args.checkpoints / args.family
    training = TrainingArguments(
        output_dir=str(work),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.05,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        seed=args.seed,
        logging_steps=50,
        save_steps=250,
        save_total_limit=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = RandomWindows(stream, context, args.steps * args.batch_size, args.seed)
    trainer = Trainer(model=model, args=training, train_dataset=data)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")))
    seconds = time.monotonic() - started

    model.eval()
    bits, scored = held_out_bits_per_byte(model, tokenizer, context)
    print(f"held-out bits per byte at {context} tokens: {bits:.4f} over {scored:,} bytes", flush=True)
    model.config.use_cache = True  # the trainer turned it off
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    log = {
        "command": f"python scripts/train_demo.py {args.family} --steps {args.steps} --batch-size {args.batch_size}"
        f" --learning-rate {args.learning_rate} --seed {args.seed}",
        "seed": args.seed,
        "parameters": parameters,
        "training_tokens": args.steps * args.batch_size * context,
        "distinct_training_bytes": len(stream),
        f"held_out_bits_per_byte_at_{context}": bits,
        "held_out_bytes_scored": scored,
        "seconds": round(seconds),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "loss_curve": [
            {"step": row["step"], "loss": row["loss"]} for row in trainer.state.log_history if "loss" in row
        ],
    }
    (args.output / "training_log.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
