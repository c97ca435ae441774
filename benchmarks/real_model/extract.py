"""The model inside a GGUF file as an ordinary bfloat16 checkpoint. It runs in the environment that `environment.py` makes.

python -m benchmarks.real_model.extract FILE.gguf FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.real_model.tokenizer import SMOLLM, BytePairs, WrongTokenizer, check, mend

CONTROL = 3  # the token type of GGUF files for special tokens
ROUNDED = 1e-3  # of a weight, by bfloat16: half a unit in the last of 8 bits is 2^-9


def main() -> None:
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    source = {"gguf_file": file.name, "pretrained_model_name_or_path": str(file.parent)}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = loaded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path"):
        config.pop(key, None)
    model: Any = LlamaForCausalLM(
        LlamaConfig(**config)
    )  # transformers refuses to save one that came out of a GGUF file
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    mend(folder)
    check_tokenizer(file, folder)
    check_model(folder)


def check_tokenizer(file: Path, folder: Path) -> None:
    """Against the file's own metadata, on the probe and on the text of this package."""
    fields = GGUFReader(file).fields
    said = {
        key: fields[f"tokenizer.ggml.{key}"].contents() for key in ("model", "pre", "tokens", "merges", "token_type")
    }
    if (said["model"], said["pre"]) != ("gpt2", "smollm"):
        raise WrongTokenizer(f"The file asks for {said['model']} and {said['pre']}, not for gpt2 and smollm.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.get_vocab() != {token: index for index, token in enumerate(said["tokens"])}:
        raise WrongTokenizer("The tokens differ from the file's.")
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    special = [token for token, kind in zip(said["tokens"], said["token_type"], strict=True) if kind == CONTROL]
    check(tokenizer, BytePairs(said["tokens"], said["merges"], SMOLLM, special), texts)


def check_model(folder: Path) -> None:
    """A model whose query and key rows were in another order would still load; it would not know this."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        answer = tokenizer.decode(model(ids).logits[0, -1].argmax())
    if answer != " Paris":
        raise SystemExit(f"The capital of France is{answer}? The weights were not read correctly.")
    print(json.dumps({"answer": answer, "parameters": model.num_parameters()}))


if __name__ == "__main__":
    main()
