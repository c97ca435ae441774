"""A process that knows nothing of this package: it loads converted checkpoints as a stranger does, and says what they compute.

A line of JSON in: {"folder", "auto", "tokens", "decoder", "into"}. A line out: "ok" when the outputs are in the file `into`, else what went
wrong.
"""

import json
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@torch.no_grad()
def computed(folder: str, auto: str, tokens: list[list[int]], decoder: bool, into: str) -> None:
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    ids = torch.tensor(tokens)
    found = model(input_ids=ids, **({"decoder_input_ids": ids.flip(1)} if decoder else {}))
    torch.save(found[0] if "logits" not in found else found.logits, into)
    if "alibi_cli" in sys.modules:
        raise RuntimeError("the checkpoint needed alibi_cli")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


say("ready")
for line in sys.stdin:
    try:
        computed(**json.loads(line))
        say("ok")
    except Exception as error:
        say(f"{type(error).__name__}: {' '.join(str(error).split())}")
