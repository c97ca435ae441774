"""Written by scripts/write_stub.py (`make docs`); do not edit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from alibi_cli.attention.benchmark import AttentionBenchmark as AttentionBenchmark
from alibi_cli.attention.registry import build_attention as build_attention
from alibi_cli.attention.registry import register_attention as register_attention
from alibi_cli.calibration.head_report import HeadReport as HeadReport
from alibi_cli.calibration.learned import Learned as Learned
from alibi_cli.compat.positions import register_alibi as register_alibi
from alibi_cli.compat.positions import (
    zero_and_freeze_expand_position_embeddings as zero_and_freeze_expand_position_embeddings,
)
from alibi_cli.conversion.convert_report import ConvertReport as ConvertReport
from alibi_cli.conversion.convert_report import PlanReport as PlanReport
from alibi_cli.conversion.verify import verify as verify
from alibi_cli.environment import inspect_environment as inspect_environment
from alibi_cli.errors import AlibiError as AlibiError
from alibi_cli.errors import UsageError as UsageError
from alibi_cli.evaluation.estimate import Estimate as Estimate
from alibi_cli.evaluation.results import Results as Results
from alibi_cli.evaluation.results_file import load_results as load_results
from alibi_cli.evaluation.tasks.task import register_task as register_task
from alibi_cli.evaluation.tasks.task_results import TaskResults as TaskResults
from alibi_cli.exporting.export_report import ExportReport as ExportReport
from alibi_cli.models.policies import PolicyRow as PolicyRow
from alibi_cli.models.slopes_of import SlopesReport as SlopesReport
from alibi_cli.nn.bias import AlibiPositionalBias as AlibiPositionalBias
from alibi_cli.nn.bias import LearnedAlibiPositionalBias as LearnedAlibiPositionalBias
from alibi_cli.nn.bias import get_biases as get_biases
from alibi_cli.nn.multi_head import AlibiMultiHeadAttention as AlibiMultiHeadAttention
from alibi_cli.nn.multi_head import KeyValueCache as KeyValueCache
from alibi_cli.progress import Progress as Progress
from alibi_cli.reporting.report import Report as Report
from alibi_cli.runtime.alibi_policies import policy_registry as policy_registry
from alibi_cli.runtime.alibi_registry import PolicyRegistry as PolicyRegistry
from alibi_cli.slopes import get_slopes as get_slopes
from alibi_cli.surgery.apply import apply_alibi as apply_alibi
from alibi_cli.surgery.engine import count_module_instances as count_module_instances
from alibi_cli.surgery.engine import replace_module_classes as replace_module_classes
from alibi_cli.surgery.optimizers import replace_params_in_optimizer as replace_params_in_optimizer
from alibi_cli.surgery.optimizers import update_params_in_optimizer as update_params_in_optimizer
from alibi_cli.training.lengths import scale_train_sequence_length as scale_train_sequence_length
from alibi_cli.training.train_report import TrainReport as TrainReport

__version__: str

def bench_attention(
    *,
    lengths: Sequence[int] | str = ...,
    heads: int = ...,
    head_dim: int = ...,
    batch: int = ...,
    repeats: int = ...,
    backends: Sequence[str] | str = ...,
    device: str = ...,
    dtype: Literal["float32", "bfloat16", "float16"] = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> AttentionBenchmark:
    """Time and peak memory of every attention backend, against plain causal attention without a bias.

    Args:
        progress: is called with each `Progress`.
        lengths: Sequence lengths in tokens: a list, or every doubling from A to B.
        heads: Number of attention heads.
        head_dim: Width of a head.
        batch: Sequences per call.
        repeats: Timed calls, of which the median is shown.
        backends: Backends to measure. Default: every registered backend.
        device: cpu, cuda, …; auto takes a GPU if there is one.
        dtype: Dtype of the inputs. One of 'float32', 'bfloat16', 'float16'.

    Raises:
        AlibiError: a backend that is not registered, or a device that is not there.
    """

def calibrate(
    model: PreTrainedModel,
    text: Any = ...,
    *,
    policy: str = ...,
    sinks: int | None = ...,
    offset: int | None = ...,
    calibrate: Literal["reach", "look-back", "distil", "distil+norms"] | None = ...,
    calibration_tokens: int | None = ...,
    calibration_length: int | None = ...,
    horizon: int | None = ...,
    grid: Literal["press"] | None = ...,
    max_sequence_length: int | None = ...,
    seed: int = ...,
    tokenizer: Any = ...,
    trained_length: int | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> Learned:
    """Finds slopes for a model in memory, which is not changed; `apply_alibi(model, length, **learned.settings)` applies them.

    Nothing is kept of a run that is interrupted; that of `convert` is continued.

    Args:
        text: what to calibrate on: strings, or (name, string) pairs; the embedded text by default.
        tokenizer: the model's; by default that of the folder or Hub repository that it was loaded from.
        trained_length: tokens that the model was trained for, if its config does not say it.
        progress: is called with each `Progress`, first with what the calibration is going to take.
        policy: replace: ALiBi instead of the model's positional encoding, as in the paper. add: the bias beside a
            rotation that stays. NAME: a plug-in's policy.
        sinks: Attention sinks: how many first tokens of every document get no bias. Default: 0, or what calibration
            chooses.
        offset: Distance in tokens up to which an added bias is zero: -m max(0, |i - j| - N). 0 is the textbook bias.
            Default: the trained length, or the horizon, with calibrated slopes; 0 with others.
        calibrate: How slopes are calibrated. reach (for policy add): the gentlest slopes that hide what lies beyond the
            trained length, in one forward pass. look-back (for replace): from how far each head looks back. distil: by
            imitating the original's predictions. distil+norms (for replace): normalisation weights too. Default: reach
            for add, distil for replace. One of 'reach', 'look-back', 'distil', 'distil+norms'.
        calibration_tokens: Number of calibration tokens, one window at least. Default: 262144 for distil, 65536 of an
            added bias; 16384 for reach and look-back.
        calibration_length: Tokens of the longest window that calibration feeds. Default: for policy add 1.5 (reach) or
            4 (distil) times the trained length; for replace the trained length.
        horizon: Calibrate an added bias for the last H tokens instead of the trained length.
        grid: press: end a calibration of policy replace on Press et al.'s slopes, in the order nearest to what was
            found, so that alibi export can write them. One of 'press'.
        max_sequence_length: The length that the config declares, and for which an added bias is calibrated; no tensor
            is sized by it. Default: 4 x the trained length.
        seed: Which windows of the text are fed.

    Raises:
        AlibiError: settings that do not fit, too little text, or a loss that is not finite.
    """

def convert(
    model: str | Path,
    output: str | Path | None = ...,
    *,
    policy: str = ...,
    sinks: int | None = ...,
    offset: int | None = ...,
    calibrate: Literal["reach", "look-back", "distil", "distil+norms"] | None = ...,
    calibration_tokens: int | None = ...,
    calibration_length: int | None = ...,
    horizon: int | None = ...,
    grid: Literal["press"] | None = ...,
    max_sequence_length: int | None = ...,
    seed: int = ...,
    slopes: str = ...,
    calibration_text: Sequence[str | Path] = ...,
    max_bias: float | None = ...,
    revision: str | None = ...,
    plugin: Sequence[str | Path] = ...,
    force: bool = ...,
    link: bool = ...,
    verify: bool = ...,
    preset: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> ConvertReport:
    """Writes a checkpoint with ALiBi, instead of its positional encoding or beside it, as a checkpoint that transformers can load.

    Args:
        model: a folder, or the name of a Hub repository. It is never changed.
        output: a folder; the model's name + -alibi by default. It gets its name when the result has been verified.
        preset: settings of presets/NAME.yaml, in place of those that are not given.
        progress: is called with each `Progress`.
        policy: replace: ALiBi instead of the model's positional encoding, as in the paper. add: the bias beside a
            rotation that stays. NAME: a plug-in's policy.
        sinks: Attention sinks: how many first tokens of every document get no bias. Default: 0, or what calibration
            chooses.
        offset: Distance in tokens up to which an added bias is zero: -m max(0, |i - j| - N). 0 is the textbook bias.
            Default: the trained length, or the horizon, with calibrated slopes; 0 with others.
        calibrate: How slopes are calibrated. reach (for policy add): the gentlest slopes that hide what lies beyond the
            trained length, in one forward pass. look-back (for replace): from how far each head looks back. distil: by
            imitating the original's predictions. distil+norms (for replace): normalisation weights too. Default: reach
            for add, distil for replace. One of 'reach', 'look-back', 'distil', 'distil+norms'.
        calibration_tokens: Number of calibration tokens, one window at least. Default: 262144 for distil, 65536 of an
            added bias; 16384 for reach and look-back.
        calibration_length: Tokens of the longest window that calibration feeds. Default: for policy add 1.5 (reach) or
            4 (distil) times the trained length; for replace the trained length.
        horizon: Calibrate an added bias for the last H tokens instead of the trained length.
        grid: press: end a calibration of policy replace on Press et al.'s slopes, in the order nearest to what was
            found, so that alibi export can write them. One of 'press'.
        max_sequence_length: The length that the config declares, and for which an added bias is calibrated; no tensor
            is sized by it. Default: 4 x the trained length.
        seed: Which windows of the text are fed.
        slopes: Press et al.'s slopes; slopes that imitate the original's attention; or a JSON file: one list, or one
            list per layer.
        calibration_text: Calibrate on this text; repeatable. Default: the embedded text.
        max_bias: Exponent of the gentlest slope, 2^-B, instead of Press's 8.
        revision: Branch, tag or commit of a Hub repository.
        plugin: Load a plug-in that registers policies; repeatable.
        force: Replace a non-empty DIR, once the new one is verified.
        link: Hard-link the weight files that stay as they are, instead of copying them: whoever edits one in place,
            edits both.
        verify: Reload the result and compare its logits before DIR gets its name.

    Raises:
        UsageError: settings that do not fit, or a family that is not converted. Nothing was done.
        AlibiError: what was read or written is not what it should be. Nothing is left under the final name.
    """

def estimate(
    models: Any,
    *,
    lengths: Sequence[int] | str = ...,
    batch_size: int | None = ...,
    output: str | Path | None = ...,
    device: str = ...,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = ...,
    revision: str | None = ...,
    tokenizer: str | None = ...,
    report_to: Sequence[str] = ...,
    plugin: Sequence[str | Path] = ...,
    trust_remote_code: bool = ...,
    baseline: Any = ...,
    arms: Sequence[str] | str | None = ...,
    protocol: Literal["fixed-target", "non-overlapping", "sliding", "lm-eval"] = ...,
    targets: int | None = ...,
    stride: int | None = ...,
    split_on: Literal["file", "blank-line"] = ...,
    dataset: str | None = ...,
    text_column: str = ...,
    max_documents: int | None = ...,
    max_segments: int | None = ...,
    resume: bool = ...,
    text: Any = ...,
    preset: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> Estimate:
    """What `evaluate` would take: tokens, passes, memory and time of every row. Nothing is scored and no weight is loaded.

    Args:
        models, text, preset, progress: as for `evaluate`.
        lengths: Sequence lengths in tokens: a list, or every doubling from A to B.
        batch_size: Windows per batch. Default: by a budget of tokens.
        output: Write results there, after every row.
        device: cpu, cuda, cuda:1, …; split: one model over all GPUs. auto: a GPU if there is one; split if the model
            needs it.
        dtype: auto: float32 on a CPU, the checkpoint's own elsewhere. One of 'auto', 'float32', 'bfloat16', 'float16',
            'float64'.
        revision: Branch, tag or commit of a Hub repository.
        tokenizer: A folder or Hub name whose tokenizer reads the text. Default: each model's own.
        report_to: Log a row for each length to tensorboard, wandb, …; repeatable.
        plugin: Load a plug-in that registers policies; repeatable.
        trust_remote_code: Let a model's own Python code run. Off unless given; stock families do not need it.
        baseline: Compare every MODEL with this one and its arms, or with one arm of it, on the same tokens.
        arms: What an unconverted model can do beyond its trained length, as rows of its own: truncated, window,
            window+sinks, streaming (StreamingLLM), window:N, window+sinks:N, streaming:N, linear, dynamic, yarn.
            Default: truncated.
        protocol: Which tokens are scored: the same last K of every segment; all, in separate windows; all, in windows
            that advance by S; all, as lm-evaluation-harness does it. One of 'fixed-target', 'non-overlapping',
            'sliding', 'lm-eval'.
        targets: K: tokens scored per segment by fixed-target. Default: 256, or half the shortest length, that of the
            truncated arm included.
        stride: S: stride of the sliding protocol, in tokens.
        split_on: What separates documents in text files. One of 'file', 'blank-line'.
        dataset: python-docs, or PATH:CONFIG:SPLIT of a dataset. Default: python-docs.
        text_column: The dataset's column that holds the text.
        max_documents: Take only the first N documents.
        max_segments: Score only N segments of the longest length, drawn at random: one of every document before a
            second of any, anywhere in it, the same for every length and run.
        resume: Keep the rows that the output already has.

    Raises:
        AlibiError: as `evaluate`.
    """

def evaluate(
    models: Any,
    *,
    lengths: Sequence[int] | str = ...,
    batch_size: int | None = ...,
    output: str | Path | None = ...,
    device: str = ...,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = ...,
    revision: str | None = ...,
    tokenizer: str | None = ...,
    report_to: Sequence[str] = ...,
    plugin: Sequence[str | Path] = ...,
    trust_remote_code: bool = ...,
    baseline: Any = ...,
    arms: Sequence[str] | str | None = ...,
    protocol: Literal["fixed-target", "non-overlapping", "sliding", "lm-eval"] = ...,
    targets: int | None = ...,
    stride: int | None = ...,
    split_on: Literal["file", "blank-line"] = ...,
    dataset: str | None = ...,
    text_column: str = ...,
    max_documents: int | None = ...,
    max_segments: int | None = ...,
    resume: bool = ...,
    text: Any = ...,
    preset: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> Results:
    """Perplexity of models at every length on the same tokens, with intervals and paired differences.

    Processes that `torchrun` or `accelerate launch` started together share the work; all return the same, and the first one writes.

    Args:
        models: one or several of: a folder, a Hub name, a model in memory, a pair of one and its tokenizer. A model in memory is computed
            where it is and in its own type.
        text: what is scored: strings, (name, string) pairs, or paths of files; by default the dataset, which is the embedded text.
        preset: settings of presets/NAME.yaml, in place of those that are not given.
        progress: is called with each `Progress`.
        lengths: Sequence lengths in tokens: a list, or every doubling from A to B.
        batch_size: Windows per batch. Default: by a budget of tokens.
        output: Write results there, after every row.
        device: cpu, cuda, cuda:1, …; split: one model over all GPUs. auto: a GPU if there is one; split if the model
            needs it.
        dtype: auto: float32 on a CPU, the checkpoint's own elsewhere. One of 'auto', 'float32', 'bfloat16', 'float16',
            'float64'.
        revision: Branch, tag or commit of a Hub repository.
        tokenizer: A folder or Hub name whose tokenizer reads the text. Default: each model's own.
        report_to: Log a row for each length to tensorboard, wandb, …; repeatable.
        plugin: Load a plug-in that registers policies; repeatable.
        trust_remote_code: Let a model's own Python code run. Off unless given; stock families do not need it.
        baseline: Compare every MODEL with this one and its arms, or with one arm of it, on the same tokens.
        arms: What an unconverted model can do beyond its trained length, as rows of its own: truncated, window,
            window+sinks, streaming (StreamingLLM), window:N, window+sinks:N, streaming:N, linear, dynamic, yarn.
            Default: truncated.
        protocol: Which tokens are scored: the same last K of every segment; all, in separate windows; all, in windows
            that advance by S; all, as lm-evaluation-harness does it. One of 'fixed-target', 'non-overlapping',
            'sliding', 'lm-eval'.
        targets: K: tokens scored per segment by fixed-target. Default: 256, or half the shortest length, that of the
            truncated arm included.
        stride: S: stride of the sliding protocol, in tokens.
        split_on: What separates documents in text files. One of 'file', 'blank-line'.
        dataset: python-docs, or PATH:CONFIG:SPLIT of a dataset. Default: python-docs.
        text_column: The dataset's column that holds the text.
        max_documents: Take only the first N documents.
        max_segments: Score only N segments of the longest length, drawn at random: one of every document before a
            second of any, anywhere in it, the same for every length and run.
        resume: Keep the rows that the output already has.

    Raises:
        AlibiError: bad input, or an earlier results file that does not belong to these settings.
    """

def evaluate_task(
    task: str,
    models: Any,
    *,
    lengths: Sequence[int] | str = ...,
    batch_size: int | None = ...,
    output: str | Path | None = ...,
    device: str = ...,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = ...,
    revision: str | None = ...,
    tokenizer: str | None = ...,
    report_to: Sequence[str] = ...,
    plugin: Sequence[str | Path] = ...,
    trust_remote_code: bool = ...,
    samples: int | None = ...,
    seed: int = ...,
    attention: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> TaskResults:
    """Accuracy of models on a generated long-range task at every length, with intervals.

    Args:
        task: "passkey", "listops", or one that a plug-in registers.
        models: as for `evaluate`.
        progress: is called with each `Progress`.
        lengths: Sequence lengths in tokens: a list, or every doubling from A to B.
        batch_size: Windows per batch. Default: by a budget of tokens.
        output: Write results there, after every row.
        device: cpu, cuda, cuda:1, …; split: one model over all GPUs. auto: a GPU if there is one; split if the model
            needs it.
        dtype: auto: float32 on a CPU, the checkpoint's own elsewhere. One of 'auto', 'float32', 'bfloat16', 'float16',
            'float64'.
        revision: Branch, tag or commit of a Hub repository.
        tokenizer: A folder or Hub name whose tokenizer reads the text. Default: each model's own.
        report_to: Log a row for each length to tensorboard, wandb, …; repeatable.
        plugin: Load a plug-in that registers policies; repeatable.
        trust_remote_code: Let a model's own Python code run. Off unless given; stock families do not need it.
        samples: Items per length and depth. Default: the task's own.
        seed: Seed of the generated items.
        attention: Run on this registered attention backend instead of the converted model's own; auto chooses one.
            Others refuse padding, windows, soft caps, and families that compute attention in code of their own; folded
            refuses offsets too.

    Raises:
        AlibiError: bad input, a model that fills in masked tokens, a length too short for a question, or an attention that is not
            registered or cannot run a model.
    """

def export(
    folder: str | Path,
    output: str | Path,
    *,
    to: Literal["gguf"] = ...,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] | None = ...,
    approximate: bool = ...,
    force: bool = ...,
    verify: bool = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> ExportReport:
    """Writes a converted checkpoint as one GGUF file, which a stock llama.cpp runs.

    Args:
        folder: a converted checkpoint. Its slopes must be Press et al.'s, in any order.
        output: a file, which has its name when llama.cpp, if it is installed, has computed the same from it.
        progress: is called with each `Progress`.
        to: The format: gguf, which llama.cpp and what is built on it run. One of 'gguf'.
        dtype: Dtype of the matrices; vectors stay in f32. Default: the checkpoint's own type. One of 'f32', 'f16',
            'bf16', 'q8_0'.
        approximate: Allow llama.cpp's tanh GELU in place of the exact GELU of some families.
        force: Replace FILE.gguf, once the new one is verified.
        verify: Compare tokens and log-probabilities with transformers before FILE.gguf gets its name: by llama.cpp if
            it is installed.

    Raises:
        UsageError: the file cannot hold the checkpoint, or is in the way.
        AlibiError: it cannot be written, or computes something else.
    """

def inspect_heads(
    model: Any,
    *,
    text: Sequence[str | Path] = ...,
    tokens: int = ...,
    length: int | None = ...,
    sinks: int = ...,
    revision: str | None = ...,
    plugin: Sequence[str | Path] = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> HeadReport:
    """How far each head of a model looks back, how widely, and how much of its attention rests on attention sinks.

    Args:
        model: a folder, a Hub name, a model in memory, or a pair of one and its tokenizer.
        progress: is called with each `Progress`.
        text: Look at the heads on this text; repeatable. Default: the embedded text.
        tokens: Tokens of text to look at; two windows are the least.
        length: Tokens in a window. Default: the trained length, but at most 1,024.
        sinks: First tokens of a window that count as attention sinks.
        revision: Branch, tag or commit of a Hub repository.
        plugin: Load a plug-in that registers policies; repeatable.

    Raises:
        AlibiError: no language model, too little text, a window of nothing but sinks, or attention that does not show its weights.
    """

def inspect_policies(
    *, plugin: Sequence[str | Path] = ..., progress: Callable[[Progress], None] | None = ...
) -> list[PolicyRow]:
    """The registered policies, by family.

    Args:
        progress: is called with each `Progress`.
        plugin: Load a plug-in that registers policies; repeatable.
    """

def inspect_slopes(model: str | None = ..., *, heads: int | None = ..., max_bias: float | None = ...) -> SlopesReport:
    """The slopes of a converted checkpoint, or Press's for a number of heads.

    Args:
        model: a folder, or the name of a Hub repository.
        heads: Number of attention heads.
        max_bias: Exponent of the gentlest slope, 2^-B, instead of Press's 8.

    Raises:
        AlibiError: no such model, or one whose config does not say how many heads it has.
    """

def plan(
    model: str | Path,
    output: str | Path | None = ...,
    *,
    policy: str = ...,
    sinks: int | None = ...,
    offset: int | None = ...,
    calibrate: Literal["reach", "look-back", "distil", "distil+norms"] | None = ...,
    calibration_tokens: int | None = ...,
    calibration_length: int | None = ...,
    horizon: int | None = ...,
    grid: Literal["press"] | None = ...,
    max_sequence_length: int | None = ...,
    seed: int = ...,
    slopes: str = ...,
    calibration_text: Sequence[str | Path] = ...,
    max_bias: float | None = ...,
    revision: str | None = ...,
    plugin: Sequence[str | Path] = ...,
    preset: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> PlanReport:
    """What `convert` would do. No weight is read and nothing is written.

    Args:
        model, output, preset, progress: as for `convert`.
        policy: replace: ALiBi instead of the model's positional encoding, as in the paper. add: the bias beside a
            rotation that stays. NAME: a plug-in's policy.
        sinks: Attention sinks: how many first tokens of every document get no bias. Default: 0, or what calibration
            chooses.
        offset: Distance in tokens up to which an added bias is zero: -m max(0, |i - j| - N). 0 is the textbook bias.
            Default: the trained length, or the horizon, with calibrated slopes; 0 with others.
        calibrate: How slopes are calibrated. reach (for policy add): the gentlest slopes that hide what lies beyond the
            trained length, in one forward pass. look-back (for replace): from how far each head looks back. distil: by
            imitating the original's predictions. distil+norms (for replace): normalisation weights too. Default: reach
            for add, distil for replace. One of 'reach', 'look-back', 'distil', 'distil+norms'.
        calibration_tokens: Number of calibration tokens, one window at least. Default: 262144 for distil, 65536 of an
            added bias; 16384 for reach and look-back.
        calibration_length: Tokens of the longest window that calibration feeds. Default: for policy add 1.5 (reach) or
            4 (distil) times the trained length; for replace the trained length.
        horizon: Calibrate an added bias for the last H tokens instead of the trained length.
        grid: press: end a calibration of policy replace on Press et al.'s slopes, in the order nearest to what was
            found, so that alibi export can write them. One of 'press'.
        max_sequence_length: The length that the config declares, and for which an added bias is calibrated; no tensor
            is sized by it. Default: 4 x the trained length.
        seed: Which windows of the text are fed.
        slopes: Press et al.'s slopes; slopes that imitate the original's attention; or a JSON file: one list, or one
            list per layer.
        calibration_text: Calibrate on this text; repeatable. Default: the embedded text.
        max_bias: Exponent of the gentlest slope, 2^-B, instead of Press's 8.
        revision: Branch, tag or commit of a Hub repository.
        plugin: Load a plug-in that registers policies; repeatable.

    Raises:
        AlibiError: as `convert`.
    """

def report(
    results: Any,
    *,
    output: str | Path | None = ...,
    card: str | Path | None = ...,
    baseline: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> Report:
    """A page, or a section of a model card, from results; models of different runs stand side by side where their tokens are the same.

    Args:
        results: one or several of: a results file of `alibi eval` or `alibi task`, the JSON of `alibi inspect heads` or `alibi train`, the
            folder of a checkpoint, or what `evaluate`, `evaluate_task`, `inspect_heads` or `train` returned.
        progress: is called with each `Progress`.
        output: Write one self-contained page there, replacing an earlier one.
        card: Put the results into the model card of this converted checkpoint.
        baseline: Compare all models with this one of the results. Default: what they were compared with when they were
            measured.

    Raises:
        AlibiError: a file that cannot be read or written, a baseline that was not measured, a card of something that was not measured.
    """

def train(
    checkpoint: str | Path,
    output: str | Path,
    *,
    tokens: int | None = ...,
    steps: int | None = ...,
    text: Sequence[str | Path] = ...,
    split_on: Literal["file", "blank-line"] = ...,
    dataset: str | None = ...,
    text_column: str = ...,
    batch_tokens: int | None = ...,
    length: int | None = ...,
    length_schedule: Sequence[Sequence[int]] | str | None = ...,
    train_sequence_length_scaling: float = ...,
    seed: int = ...,
    teacher: str | None = ...,
    kd_weight: float = ...,
    temperature: float = ...,
    hidden_weight: float = ...,
    train_slopes: bool = ...,
    learning_rate: float = ...,
    warmup: float = ...,
    decay: Literal["cosine", "linear", "constant"] = ...,
    weight_decay: float = ...,
    max_gradient_norm: float = ...,
    dtype: Literal["float32", "bfloat16"] = ...,
    device: Literal["auto", "cpu"] = ...,
    batch_size: int | None = ...,
    gradient_checkpointing: bool = ...,
    fsdp: str | None = ...,
    deepspeed: str | Path | None = ...,
    report_to: Sequence[str] = ...,
    save_every: int = ...,
    resume: bool = ...,
    force: bool = ...,
    revision: str | None = ...,
    plugin: Sequence[str | Path] = ...,
    trust_remote_code: bool = ...,
    preset: str | None = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> TrainReport:
    """Trains a checkpoint, converted or not, and writes the result as one.

    The states of an unfinished run are kept in `output` + .training and removed at the end. Under `accelerate launch` or torchrun every
    process calls this, and the first one writes. Torch's global random state is set from the seed.

    Args:
        checkpoint: a folder, or the name of a Hub repository. It is never changed.
        output: a folder.
        preset: settings of presets/NAME.yaml, in place of those that are not given.
        progress: is called with each `Progress`.
        tokens: Budget in tokens, rounded up to whole optimizer steps.
        steps: Budget in optimizer steps, instead of tokens.
        text: Train on this file; repeatable. A file is a document, unless `split_on` says otherwise.
        split_on: What separates documents in text files. One of 'file', 'blank-line'.
        dataset: PATH:CONFIG:SPLIT of a dataset, streamed; the split is train if not given. Default: the training part
            of python-docs.
        text_column: The dataset's column that holds the text.
        batch_tokens: Tokens per optimizer step, over all processes. Default: 4096, or so few that the budget makes 400
            steps.
        length: Sequence length in tokens. Default: the length for which the original was trained.
        length_schedule: Lengths one after the other, with their shares of the budget: 512:0.7,1024:0.3.
        train_sequence_length_scaling: Cut every sequence into shorter ones: 0.25 makes four of each. No token is lost.
        seed: Seed of the order of documents and blocks.
        teacher: Teacher of a distillation, such as the original of a converted model. Longer sequences are fed to it in
            windows of its own trained length.
        kd_weight: Weight of the teacher's KL divergence in the loss; the cross-entropy of the text has the rest.
        temperature: Softmax temperature of the distillation.
        hidden_weight: Weight in the loss of the difference between the normalised hidden states of all layers.
        train_slopes: Train the slopes of a converted checkpoint too.
        learning_rate: Peak learning rate.
        warmup: Warmup, as a fraction of total steps.
        decay: Schedule of the learning rate after the warmup, down to zero; constant keeps it. One of 'cosine',
            'linear', 'constant'.
        weight_decay: Weight decay of AdamW.
        max_gradient_norm: Gradient clipping norm.
        dtype: Compute dtype; master weights stay float32. One of 'float32', 'bfloat16'.
        device: Device to train on; auto takes a GPU if there is one. One of 'auto', 'cpu'.
        batch_size: Sequences per device and forward pass; the result does not depend on it. Default: 16,384 tokens'
            worth.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more compute.
        fsdp: Options of FSDP, as `fsdp` of transformers' TrainingArguments takes them.
        deepspeed: DeepSpeed's configuration file.
        report_to: Log to tensorboard, wandb, …; repeatable.
        save_every: Steps between saved states, kept in DIR.training.
        resume: Continue from the last saved state, if there is one.
        force: Replace a non-empty DIR at the end, and discard an unfinished run.
        revision: Branch, tag or commit of a Hub repository.
        plugin: Load a plug-in that registers policies; repeatable.
        trust_remote_code: Let a model's own Python code run. Off unless given; stock families do not need it.

    Raises:
        UsageError: bad settings.
        AlibiError: training that failed (the last whole state is kept for `resume`), or another run that has the same output.
    """
