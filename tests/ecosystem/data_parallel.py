"""What two processes do in test_accelerate.py: the gradient of a half of the batch each, which both then have of the whole."""

import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from accelerate import Accelerator

folder, output, way = sys.argv[1:]
if way == "installed":
    import_module("alibi_cli")
auto = import_module("transformers").AutoModelForCausalLM

accelerator = Accelerator(cpu=True)
model = auto.from_pretrained(folder, **({} if way == "installed" else {"trust_remote_code": True})).train()
tokens = torch.tensor(json.loads(Path(f"{output}.tokens").read_text()))
half = len(tokens) // accelerator.num_processes
model = accelerator.prepare(model)
mine = tokens[half * accelerator.process_index :][:half]
accelerator.backward(model(input_ids=mine, labels=mine).loss)
if accelerator.is_main_process:
    torch.save({n: p.grad for n, p in accelerator.unwrap_model(model).named_parameters()}, f"{output}.gradients")
    accelerator.unwrap_model(model).save_pretrained(output)
accelerator.wait_for_everyone()
sys.stdout.write(f"{accelerator.num_processes}\n")
