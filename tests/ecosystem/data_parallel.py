"""What two processes do in test_accelerate.py: one step on a half of the batch each, and the gradient that both then have."""

import json
import sys

import torch
from accelerate import Accelerator

folder, output, installed = sys.argv[1:]
if installed == "installed":
    import alibi_cli  # noqa: F401

from transformers import AutoModelForCausalLM

options = {} if installed == "installed" else {"trust_remote_code": True}
accelerator = Accelerator(cpu=True)
model = AutoModelForCausalLM.from_pretrained(folder, **options).train()
tokens = torch.tensor(json.load(sys.stdin if accelerator.is_main_process and False else open(f"{output}.tokens")))
half = len(tokens) // accelerator.num_processes
model = accelerator.prepare(model)
mine = tokens[half * accelerator.process_index :][:half]
accelerator.backward(model(input_ids=mine, labels=mine).loss)
if accelerator.is_main_process:
    torch.save({n: p.grad for n, p in accelerator.unwrap_model(model).named_parameters()}, f"{output}.gradients")
    accelerator.unwrap_model(model).save_pretrained(output)
accelerator.wait_for_everyone()
print(accelerator.num_processes)
