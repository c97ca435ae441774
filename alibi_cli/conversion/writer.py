"""Executes a plan: writes `DIR.partial`, verifies it, renames it to `DIR`. The source is never written to."""

import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alibi_cli.conversion.convert_report import ConvertReport
from alibi_cli.conversion.model_card import model_card
from alibi_cli.conversion.plan import Plan
from alibi_cli.conversion.source_check import non_finite, unchanged
from alibi_cli.conversion.verified import Verification
from alibi_cli.errors import AlibiError, explained
from alibi_cli.files.atomic import MARKER, check_output, partial_folder
from alibi_cli.files.copying import FILES_AT_A_TIME, Writing, copy_file, link_file, sha256_of
from alibi_cli.files.pickled import rewrite_pickled
from alibi_cli.files.strict_json import write_json
from alibi_cli.files.tensor_files import rewrite_file
from alibi_cli.files.versions import versions
from alibi_cli.progress import Watch, notes, steps
from alibi_cli.runtime import runtime_sources
from alibi_cli.version import __version__


def write(
    plan: Plan,
    *,
    force: bool = False,
    link: bool = False,
    check: bool = True,
    command: str = "",
    progress: Watch | None = None,
) -> ConvertReport:
    """Writes, verifies and names the converted checkpoint. One run at a time may write an output; the source must not change meanwhile.

    Args:
        force: replace an existing non-empty output folder, once the new one is verified.
        link: give shards that stay as they are another name instead of copying them.
        check: reload and compare logits before the folder gets its name.
        command: recorded in the model card; the plain one by default.
        progress: is called with each `Progress`, in bytes written (from other threads, one at a time), and with what is odd.

    Raises:
        AlibiError: the output exists, another run is writing it, the disk is too small, a file cannot be read or written, the source
            changed, or the verification failed. Nothing is left under the final name.
    """
    started = time.monotonic()
    check_output(plan.output, plan.source.folder, force)
    needed = plan.bytes_to_write - sum(shard.stat().st_size for shard in plan.untouched if link)
    if needed > plan.free_bytes:
        raise AlibiError(f"{plan.output.resolve()} needs {needed:,} bytes and the disk has {plan.free_bytes:,} free.")
    update, done = steps(progress, "bytes"), 0

    def on_bytes(n: int) -> None:
        nonlocal done
        done += n
        update("Writing", done, plan.bytes_to_write)

    update("Checking", done, plan.bytes_to_write)
    odd = non_finite(plan.source, plan.copied)
    for name in odd:
        notes(progress)(f"Tensor {name!r} of {plan.source.name} holds NaN or Inf.")
    with partial_folder(plan.output, replace=force) as folder, unchanged(plan.source):
        update("Writing", done, plan.bytes_to_write)
        digests = _write_weights(plan, folder, link, check, on_bytes)
        _write_files(plan, folder, command or shlex.join(["alibi", "convert", plan.source.name]), on_bytes)
        verified = None
        if check:
            update("Verifying", done, plan.bytes_to_write)
            verified = _verify(plan, folder)
        report = ConvertReport(
            output=str(plan.output),
            source=plan.source.name,
            source_revision=plan.source.revision,
            source_commit=plan.source.commit,
            base_model_type=plan.family,
            model_type=plan.config["model_type"],
            policy=plan.family,
            policy_name=plan.policy,
            mechanism=plan.mechanism,
            slopes_scheme=plan.slopes_scheme,
            slopes=plan.slopes or [],
            offsets=plan.offsets,
            sinks=plan.sinks or 0,
            sink_distance=plan.sink_distance,
            trained_length=plan.trained_length,
            max_sequence_length=plan.max_sequence_length,
            tensors=plan.tensors,
            non_finite=odd,
            bytes_written=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            seconds=time.monotonic() - started,
            calibration=None if plan.learned is None else plan.learned.record,
            verified=verified,
            loads_with=plan.how_it_loads,
        )
        write_json(
            folder / "alibi.json",
            {
                **report.model_dump(exclude={"output", "seconds", "better", "suggestion"}),
                "versions": versions("safetensors"),
                "sha256": digests,
                "files": _digests_of_files(folder, digests),
            },
        )
    return report


def _write_weights(
    plan: Plan, folder: Path, link: bool, check: bool, on_bytes: Callable[[int], None]
) -> dict[str, str]:
    """Writes the shards and their index; returns {file: sha256}. check: compare those that are copied with their sources on the way."""
    placed: dict[str, str] = {}
    replaced, added = plan.learned_tensors()
    untouched = set(plan.untouched)
    at_a_time = 1 if plan.source.pickled else FILES_AT_A_TIME  # a pickled one is in memory while it is rewritten
    with Writing(on_bytes, at_a_time) as writing:
        for shard, kept in plan.kept_by_shard.items():
            name = shard.name
            if plan.source.pickled:
                name = name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
            target = folder / name
            changed = {name: replaced[name] for name in kept if name in replaced}
            if plan.source.pickled:
                mode_of = folder / MARKER
                write = partial(rewrite_pickled, shard, target, kept, mode_of, replaced=changed, added=added)
            elif shard in untouched:
                write = partial(link_file if link else copy_file, shard, target)
            else:
                contents = {name: tensor.content for name, tensor in changed.items()}
                write = partial(rewrite_file, shard, target, kept, replaced=contents, added=added)
            copied = shard in untouched and not link
            writing.start(target, write, drop_cache=copied, same_as=shard if copied and check else None)
            placed.update(dict.fromkeys([*kept, *added], name))
            added = {}  # the first shard takes them
        digests = writing.digests()
    if set(digests) != {"model.safetensors"}:
        total = sum(info.n_bytes for name, (_, info) in plan.source.tensors.items() if name in placed)
        total += sum(len(tensor.content) for tensor in plan.learned_tensors()[1].values())
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))},
        )
    return digests


def _write_files(plan: Plan, folder: Path, command: str, on_bytes: Callable[[int], None]) -> None:
    write_json(folder / "config.json", plan.config)
    for path in plan.carried:
        target = folder / path.relative_to(plan.source.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, target, on_bytes)
    readme = plan.source.folder / "README.md"
    if readme.is_file():
        copy_file(readme, folder / "README.source.md", on_bytes)
    written = {
        **plan.edited,
        **runtime_sources(),
        "README.md": model_card(plan, command, __version__).encode(),
    }
    if plan.plugin is not None:
        written["alibi_plugin.py"] = plan.plugin
    for name, content in written.items():
        (folder / name).write_bytes(content)


def _digests_of_files(folder: Path, weights: dict[str, str]) -> dict[str, str]:
    """{file: sha256} of all that is neither weights nor their index, nor the card, which its owner is free to edit."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: sha256_of(path)
        for name, path in files.items()
        if name not in {*weights, "model.safetensors.index.json", MARKER, "README.md"}
    }


def _verify(plan: Plan, folder: Path) -> Verification:
    from alibi_cli.conversion.reload_check import check_reload

    with explained("The checkpoint that was written cannot be loaded"):
        return check_reload(plan, folder)
