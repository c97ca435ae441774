"""The trained model as a checkpoint: the source's folder with other weights, a training record, and a card that says so."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from yaml import YAMLError

from alibi_cli.conversion.card_results import without_results
from alibi_cli.conversion.model_card import UNTRAINED
from alibi_cli.conversion.reload_check import TOLERANCE, outputs, reload
from alibi_cli.conversion.verified import Verification
from alibi_cli.errors import AlibiError
from alibi_cli.files.atomic import MARKER
from alibi_cli.files.copying import copy_file, sha256_of
from alibi_cli.files.dtypes import DTYPES
from alibi_cli.files.strict_json import read_json, write_json
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.models.loading import load_model
from alibi_cli.models.source import Source
from alibi_cli.names import counted
from alibi_cli.runtime import runtime_sources
from alibi_cli.slopes import Slopes
from alibi_cli.training.job import Job
from alibi_cli.training.train_report import RECORD, TrainReport, loads_with
from alibi_cli.training.trainer import COMPLETE, last_state

OF_THE_FOLDER = {"output", "verified", "sha256", "loads_with"}  # in a report, and not in the record of its training
SAMPLE = (2, 64)  # rows and tokens on which the reloaded model is compared


def write_weights(model: Any, source: Source, folder: Path) -> dict[str, str]:
    """Writes the weights in the source's own number types; returns {file: sha256}. The model in memory is rounded likewise, so that it can
    be compared with what is read back."""
    types = {name: DTYPES[info.dtype] for name, (_, info) in source.tensors.items() if info.dtype in DTYPES}
    common = Counter(types.values()).most_common(1)[0][0] if types else torch.float32
    for (
        name,
        parameter,
    ) in model.named_parameters():  # names that loading changed, such as those of experts, take the common type
        parameter.data = parameter.data.to(types.get(name, common))
    scratch = folder / ".weights"
    model.save_pretrained(scratch)
    digests = {}
    for path in sorted(scratch.glob("*.safetensors*")):
        target = folder / path.name
        path.rename(target)
        shutil.copymode(folder / MARKER, target)  # safetensors makes files that only their owner can read
        if path.suffix == ".safetensors":
            digests[path.name] = sha256_of(target)
    shutil.rmtree(scratch)
    return digests


def write_files(source: Source, folder: Path, slopes: Slopes | None = None, code: bool = False) -> None:
    """Config, tokenizer, runtime files and everything else that is not weights, byte for byte, but for trained slopes in the config.

    code: the model's own too, without which an unconverted one that brings it could not be loaded; it was allowed to run.
    """
    if slopes is None:
        copy_file(source.folder / "config.json", folder / "config.json")
    else:
        write_json(folder / "config.json", {**read_json(source.folder / "config.json"), "alibi_slopes": slopes})
    own = [path for path in source.left_behind if path.suffix == ".py"] if code else []
    for path in [*source.side_files, *own]:
        name = path.relative_to(source.folder)
        if name.as_posix() in ("alibi.json", "README.md", MARKER):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, folder / name)


@torch.no_grad()
def verify_trained(model: Any, info: ModelInfo, folder: Path, trust_remote_code: bool) -> Verification:
    """Reloads `folder` as a stranger would and compares logits with the model in memory, both in float32.

    The folder's own code is run if it is this package's, byte for byte, or if that was asked for; otherwise the package's own
    copy of the runtime reads the folder.
    """
    model = model.to("cpu", torch.float32).eval()
    shape = (SAMPLE[0], min(SAMPLE[1], info.trained_length or SAMPLE[1]))
    tokens = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    expected, _ = outputs(model, tokens)
    own = info.converted and all((folder / name).read_bytes() == code for name, code in runtime_sources().items())
    if own or (info.converted and trust_remote_code):
        reloaded = reload(folder, read_json(folder / "config.json")["architectures"][0])
    else:
        reloaded = load_model(dataclasses.replace(info, folder=folder), "cpu", "float32", trust_remote_code)
    found, _ = outputs(reloaded, tokens)
    difference = (found - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise AlibiError(
            f"Verification failed: reloaded logits differ by {difference:.1e}, and at most {TOLERANCE:.0e} is allowed.",
            hint="Nothing was written under the final name. Please report this with the model's name.",
        )
    return Verification(max_abs_logit_difference=difference, tolerance=TOLERANCE, tokens=tokens.numel(), passed=True)


def write_record(report: TrainReport, source: Source, folder: Path) -> None:
    """alibi.json of the source with the training added, or alibi-training.json, and the model card."""
    name = "alibi.json" if report.converted else RECORD
    old = source.folder / name
    before: dict[str, Any] = json.loads(old.read_text(encoding="utf-8")) if old.is_file() else {}
    training = report.model_dump(mode="json", exclude=OF_THE_FOLDER)
    if "training" in before:
        training["before"] = before["training"]
    verified = {"verified": report.verified.model_dump(), "sha256": report.sha256}
    if report.train_slopes:
        before["slopes"] = read_json(folder / "config.json")["alibi_slopes"]
        before["slopes_scheme"] = f"{before.get('slopes_scheme', 'unknown')}, trained"
        before["files"] = {**before.get("files", {}), "config.json": sha256_of(folder / "config.json")}
    write_json(folder / name, {**before, **verified, "training": training})
    (folder / "README.md").write_text(_card(report, source), encoding="utf-8")


def finished(job: Job, processes: int) -> TrainReport | None:
    """The report of this very run, if its output is there, whole: a signal, or the machine, can end a program just after its work is done,
    and who continues it then shall not be told that something is in the way."""
    output = job.settings.output
    path = output / ("alibi.json" if job.info.converted else RECORD)
    try:
        state = last_state(job.work)
        if state is not None and path.stat().st_mtime < (state[0] / COMPLETE).stat().st_mtime:
            return None  # it was begun once more, with `force`
        record = read_json(path)
        training, sha256 = record["training"], record["sha256"]
        if training["request"] != job.request(processes):
            return None
        if any(sha256_of(output / name) != digest for name, digest in sha256.items()):
            return None
        here = {"output": str(output), "verified": record["verified"], "sha256": sha256, "loads_with": loads_with(job)}
        return TrainReport.model_validate({**training, **here})
    except (AlibiError, OSError, KeyError, TypeError, ValueError):
        return None  # something else is there, or nothing


def _card(report: TrainReport, source: Source) -> str:
    readme = source.folder / "README.md"
    try:
        text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, OSError, YAMLError):  # a card that cannot be read would be passed on
        text = ""
    if not text.strip():
        text = f"# {Path(report.source).name}, trained further\n"
    text = without_results(text)  # which were not measured of this model
    for sentence in UNTRAINED:
        text = text.replace(sentence, "Then it was trained further, as said below. ")
    teacher = "none" if report.teacher is None else f"{report.teacher}, weight {report.kd_weight:g}"
    if report.teacher_length is not None:
        teacher += f", fed {report.teacher_length} tokens at a time"
    lengths = ", ".join(f"{stage.length} for {counted(stage.steps, 'step')}" for stage in report.lengths)
    return f"""{text.rstrip()}

## Continued training

| | |
|---|---|
| trained from | {report.source} |
| tokens, steps | {report.tokens}, {report.steps} |
| sequence length | {lengths} |
| text | {report.text["name"]}, sha256 {report.text["sha256"][:12]} |
| learning rate | {report.learning_rate:g}, {report.decay} decay, {counted(report.warmup_steps, "step")} of warm-up |
| teacher | {teacher} |
| slopes | {"trained" if report.train_slopes else "unchanged"} |
| last loss | {report.losses[-1].ce:.4f} nats per token |
| seed | {report.seed} |

Written by alibi-cli {report.versions["alibi-cli"]}:

    {report.command}
"""
