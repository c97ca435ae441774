"""The verb `verify`: is a converted checkpoint still what was written? No model is loaded and no code is run."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alibi_cli.errors import AlibiError, UsageError, explained
from alibi_cli.files.copying import sha256_of
from alibi_cli.files.digests import TOKENIZER
from alibi_cli.files.inside import check_links, check_name
from alibi_cli.files.strict_json import read_json
from alibi_cli.files.tensor_files import read_header
from alibi_cli.names import CONVERTED
from alibi_cli.progress import Update, Watch, steps
from alibi_cli.runtime import runtime_sources
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.presets import DEMONSTRATIONS
from alibi_cli.slopes import is_slope, layers_of

INDEX = "model.safetensors.index.json"
LOADED_BY_TOKENIZERS = (*TOKENIZER, "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")
PLUGIN = "alibi_plugin.py"  # the one runtime file that a conversion may fill
# sha256 over the runtime files of earlier releases, one after the other, plug-in aside: checkpoints that they wrote are still right.
RELEASED = {"0.1.0": "b73c2e73692871656a94a15fdcc58500b00952fe8fa00eb7d3d16da85dbc1a78"}


class Finding(BaseModel):
    """status: "ok", "missing", "changed" (not what was written), "unknown" (nobody wrote it, and it would be loaded) or "wrong" (does
    not fit the rest). detail: what is wrong."""

    file: str
    status: str
    detail: str = ""


class Verdict(BaseModel):
    """What `verify` returns, and the JSON of `alibi verify`. policy, sinks: as alibi.json has them, with which config.json is compared.
    passed: every finding is "ok"."""

    folder: str
    written_by: str
    policy: str
    sinks: int
    passed: bool
    findings: list[Finding]

    def raise_if_failed(self) -> None:
        """
        Raises:
            AlibiError: a file is not what was written; the message names the first.
        """
        wrong = [finding for finding in self.findings if finding.status != "ok"]
        if wrong:
            first = wrong[0]
            raise AlibiError(
                f"{self.folder}: {first.file} is {first.status}{f': {first.detail}' if first.detail else ''}."
            )


def verify(folder: str | Path, *, progress: Watch | None = None) -> Verdict:
    """Compares a checkpoint with its alibi.json and with the runtime files of this version.

    Args:
        progress: is called with each `Progress`, in bytes.

    Raises:
        AlibiError: no such folder, or one without a readable alibi.json.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if str(folder) in DEMONSTRATIONS:
            raise UsageError(
                f"{folder} is an original that comes with this package; `alibi verify` is for what was converted."
            )
        raise UsageError(f"There is no folder {folder}.")
    with explained(f"Cannot read {folder}"):
        check_links(folder)
        if not (folder / "alibi.json").is_file():
            raise UsageError(f"{folder} has no alibi.json, so nothing says what was written there.")
        facts = read_json(folder / "alibi.json")
        shards, others = _digests(facts, "sha256", folder), _digests(facts, "files", folder)
        if not shards:
            raise AlibiError(f"{folder / 'alibi.json'} names no weights.")
        versions = facts.get("versions")
        written_by = str(versions.get("alibi-cli")) if isinstance(versions, dict) else "unknown"
        findings = [*_files(folder, {**shards, **others}, steps(progress, "bytes"))]
        findings += _runtime(folder, others, written_by)
        findings += [*_weights(folder, set(shards)), *_strangers(folder, others), *_config(folder, facts)]
    worst = {finding.file: finding for finding in sorted(findings, key=lambda finding: finding.status != "ok")}
    found = [worst[name] for name in dict.fromkeys(finding.file for finding in findings)]
    passed = all(finding.status == "ok" for finding in found)
    policy, sinks = str(facts.get("policy_name") or DEFAULT_POLICY), facts.get("sinks")
    return Verdict(
        folder=str(folder),
        written_by=written_by,
        policy=policy,
        sinks=sinks if type(sinks) is int else 0,
        passed=passed,
        findings=found,
    )


def _digests(facts: dict[str, Any], key: str, folder: Path) -> dict[str, str]:
    digests = facts.get(key, {})
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise AlibiError(f"{folder / 'alibi.json'}: {key} is not a table of files and digests.")
    for name in digests:
        check_name(folder, name)
    return digests


def _files(folder: Path, digests: dict[str, str], update: Update) -> Iterator[Finding]:
    total = sum(path.stat().st_size for name in digests if (path := folder / name).is_file())
    done = 0

    def on_bytes(n: int) -> None:
        nonlocal done
        done += n
        update("Checking", done, total)

    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            yield Finding(file=name, status="missing")
        elif sha256_of(path, on_bytes) != digest:
            yield Finding(file=name, status="changed", detail="its sha256 is not the one in alibi.json")
        else:
            yield Finding(file=name, status="ok")


def _runtime(folder: Path, digests: dict[str, str], written_by: str) -> Iterator[Finding]:
    if written_by in RELEASED:
        names = sorted(name for name in digests if name in runtime_sources() and name != PLUGIN)
        parts = [(folder / name).read_bytes() for name in names if (folder / name).is_file()]
        if sha256(b"".join(parts)).hexdigest() == RELEASED[written_by]:
            yield from (Finding(file=name, status="ok", detail=f"of version {written_by}") for name in names)
            return
    for name, content in runtime_sources().items():
        path = folder / name
        if not path.is_file():
            yield Finding(file=name, status="missing")
        elif path.read_bytes() == content:
            yield Finding(file=name, status="ok")
        elif name == PLUGIN and name in digests:
            yield Finding(
                file=name, status="ok", detail="a plug-in's source"
            )  # unless `_files` says that it has changed
        else:
            yield Finding(file=name, status="changed", detail="not the file that this version of alibi-cli writes")


def _weights(folder: Path, shards: set[str]) -> Iterator[Finding]:
    """Headers, the index, and weights that were not written but would be loaded."""
    held: dict[str, str] = {}
    for name in sorted(shards):
        if (folder / name).is_file():
            try:
                held |= dict.fromkeys(read_header(folder / name).tensors, name)
            except AlibiError as error:
                yield Finding(file=name, status="changed", detail=error.message.removeprefix(f"{folder / name} "))
    if shards != {"model.safetensors"}:
        try:
            weight_map = read_json(folder / INDEX).get("weight_map")
        except AlibiError as error:
            yield Finding(file=INDEX, status="missing", detail=error.message)
        else:
            same = weight_map == held
            yield Finding(
                file=INDEX, status="ok" if same else "wrong", detail="" if same else "it is not what the shards hold"
            )
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin") and path.name not in shards:
            yield Finding(file=path.name, status="unknown", detail="weights that were not written with the rest")


def _strangers(folder: Path, digests: dict[str, str]) -> Iterator[Finding]:
    """Code and tokenizer files that were not written but would be used."""
    known = {*digests, *runtime_sources()}
    for pattern, what in (("**/*.py", "code"), *((name, "a tokenizer's file") for name in LOADED_BY_TOKENIZERS)):
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in known:
                yield Finding(file=name, status="unknown", detail=f"{what} that was not written with the rest")


def _config(folder: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    try:
        config = read_json(folder / "config.json")
    except AlibiError as error:
        yield Finding(file="config.json", status="missing", detail=error.message)
        return
    slopes, auto_map = config.get("alibi_slopes"), config.get("auto_map")
    told = {
        "policy_name": config.get("alibi_policy") or DEFAULT_POLICY,
        "offsets": config.get("alibi_offsets"),
        "sinks": config.get("alibi_sinks") or 0,
        "sink_distance": config.get("alibi_sink_distance"),
    }
    layers = layers_of(slopes)
    wrong = None
    if not str(config.get("model_type")).startswith(CONVERTED):
        wrong = "its model_type is not that of a converted model"
    elif not all(isinstance(layer, list) and layer and all(map(is_slope, layer)) for layer in layers):
        wrong = "alibi_slopes is not a list of slopes"
    elif "slopes" in facts and facts["slopes"] != slopes:
        wrong = "alibi_slopes is not what alibi.json says"
    elif different := [key for key, value in told.items() if key in facts and facts[key] != value]:
        wrong = f"{different[0]} is not what alibi.json says"
    elif not isinstance(auto_map, dict) or not all(str(to).startswith("modeling_alibi.") for to in auto_map.values()):
        wrong = "auto_map names code that is not ours"
    yield Finding(file="config.json", status="wrong" if wrong else "ok", detail=wrong or "")
