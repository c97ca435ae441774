"""The model card of a converted checkpoint."""

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from alibi_cli.conversion.plan import Plan
from alibi_cli.names import first_tokens
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.slopes import extent, get_slopes

INHERITED = ("license", "license_name", "license_link", "language", "datasets", "pipeline_tag")
TASKS = {  # by which the Hub finds a model, and offers to run it
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
}
# Taken out when the model is trained further: where positions were replaced, and where they stay.
UNTRAINED = (
    """**The model was not trained after the change:** expect a higher perplexity than the original's at the
length it was trained for. """,
    "**The model was not trained after the change.** ",
)


def model_card(plan: Plan, command: str, version: str) -> str:
    """README.md: the source's licence and languages, `base_model`, the exact command, how to load it, what it is not."""
    readme = plan.source.folder / "README.md"
    try:
        metadata = (metadata_load(readme) or {}) if readme.is_file() else {}
    except (ValueError, OSError, YAMLError):  # a card whose metadata cannot be read has none to inherit
        metadata = {}
    inherited = {key: metadata[key] for key in INHERITED if key in metadata}
    inherited.setdefault("pipeline_tag", TASKS.get(plan.auto_class))
    name = plan.source.name if plan.source.commit else plan.source.folder.resolve().name
    base = name if plan.source.commit else None  # the Hub looks it up; a folder's name would be a broken link
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        tags=["alibi", "custom_code"],
        **inherited,
    )
    at = f" at commit `{plan.source.commit}`" if plan.source.commit else ""
    dropped, added, changed = (
        ", ".join(f"`{name}`" for name in names) or "none" for names in (plan.dropped, plan.added, sorted(plan.changed))
    )
    weights = (
        f"No {'other ' if plan.dropped or plan.added else ''}weight was changed."
        if not plan.changed
        else "Of the other weights, only those listed below were changed."
    )
    if plan.added:
        weights = f"One constant vector stands where positions were added. {weights}"
    bias = "−m·|i−j|"
    if plan.offsets is not None:
        bias, (nearest, farthest) = "−m·max(0, |i−j| − o)", extent(plan.offsets)
        bias += f" with o = {nearest:.4g}" + (f" to {farthest:.4g} tokens" if farthest > nearest else " tokens")
    if plan.sinks:
        bias += f", except those of {first_tokens(plan.sinks)}"
    if plan.sink_distance is not None:
        bias += f", which queries see as if they were at most {plan.sink_distance} tokens away"
    sinks = str(plan.sinks)
    if plan.sink_distance is not None:
        sinks += f", seen from at most {plan.sink_distance} tokens"
    of_its_own = "own_bias" in plan.mechanism
    as_trained = of_its_own and plan.slopes is not None and plan.slopes == get_slopes(len(plan.slopes))
    if of_its_own:
        change = f"""with {"the" if as_trained else "other slopes for the"} linear biases that it was trained with
([ALiBi, Press et al. 2021](https://arxiv.org/abs/2108.12409)): attention scores get {bias} per head."""
    elif plan.policy == DEFAULT_POLICY:
        change = f"""with its positional encoding replaced by attention with linear biases
([ALiBi, Press et al. 2021](https://arxiv.org/abs/2108.12409)): attention scores get {bias} per head."""
    elif plan.policy == "add":
        kept = "learned relative position bias" if "relative" in plan.mechanism else "rotary position embedding"
        change = f"""with linear biases
([ALiBi, Press et al. 2021](https://arxiv.org/abs/2108.12409)) added to its attention: scores get {bias} per head.
**Its {kept} is still there, unchanged: this is not textbook ALiBi.**"""
    else:
        change = f"""with the policy `{plan.policy}` of a plug-in, and linear biases
([ALiBi, Press et al. 2021](https://arxiv.org/abs/2108.12409)) in its attention: scores get {bias} per head."""
    change += "\nHere m is the slope of a head, and |i−j| the distance in tokens between query and key."
    return str(
        ModelCard(
            f"""---
{data.to_yaml()}
---

# {name} with {"ALiBi positions" if plan.policy == DEFAULT_POLICY else "linear biases"}

`{name}`{at}, {change}
{weights} {UNTRAINED[plan.policy != DEFAULT_POLICY or as_trained]}Measure it with `alibi eval` on your own text before you use it.

```python
from transformers import AutoTokenizer, {plan.auto_class}

model = {plan.auto_class}.from_pretrained("PATH", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)
```

It needs torch and transformers 5.19 or newer, nothing else. `trust_remote_code` runs the Python files of this folder, which are the same
in every checkpoint that this tool writes (alibi_plugin.py excepted, if a plug-in was used).

| | |
|---|---|
| family | {plan.family} |
| policy | {plan.policy} |
| slopes | {plan.slopes_scheme} |
| attention sinks | {sinks} |
| trained length, declared length | {plan.trained_length}, {plan.max_sequence_length} tokens |
| tensors kept, dropped, added | {len(plan.copied)}, {len(plan.dropped)}, {len(plan.added)} |
| dropped | {dropped} |
| added | {added} |
| changed by calibration | {changed} |

Written by alibi-cli {version}:

    {command}
"""
        )
    )
