"""A checkpoint to convert: its config, its files and the index of its tensors. No weight is read.

The config is parsed here, once; whatever else needs the family, the class or the trained length takes it from here.
"""

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alibi_cli.errors import AlibiError, UsageError, explained
from alibi_cli.files.digests import Stamp, stamps
from alibi_cli.files.inside import LEFT_BEHIND, check_links, check_name
from alibi_cli.files.pickled import index_of
from alibi_cli.files.strict_json import read_json
from alibi_cli.files.tensor_files import TensorInfo, read_header
from alibi_cli.models.families import config_of, model_class
from alibi_cli.models.hub import FOREIGN_WEIGHTS, download, remote_tensors
from alibi_cli.models.not_as_trained import check_no_adapter, check_not_quantised
from alibi_cli.names import CONVERTED
from alibi_cli.settings.on_disk import local_folder
from alibi_cli.settings.presets import presets_folder
from alibi_cli.surgery.refusals import trained_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Weights in any format; one format of them is converted and the others are left behind, because they would be stale.
WEIGHTS = (*FOREIGN_WEIGHTS, "*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
TOKENIZER_FILES = {
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
}


@dataclass(frozen=True)
class Source:
    """A model folder on this machine.

    name: what the user asked for. commit: the resolved commit of a Hub repository. shards: weight files in order. tensors: {name:
    (shard, where)}. stamps: of every file, taken before any was read. raw_config: config.json as it is.
    """

    name: str
    folder: Path
    commit: str | None
    revision: str | None
    raw_config: dict[str, Any]
    shards: list[Path]
    side_files: list[Path]
    left_behind: list[Path]
    tensors: dict[str, tuple[Path, TensorInfo]] = field(repr=False)
    stamps: dict[Path, Stamp] = field(default_factory=dict, repr=False)

    @cached_property
    def config(self) -> "PreTrainedConfig":
        """
        Raises:
            AlibiError: the family is not converted, or config.json does not describe a model of it.
        """
        return config_of(self.raw_config, self.name)

    @cached_property
    def model_class(self) -> "type[PreTrainedModel]":
        return model_class(self.config)

    @cached_property
    def trained_length(self) -> int | None:
        return trained_length(self.config)

    @property
    def fingerprint(self) -> str:
        """Changes with any of the files, whose contents are not read for it."""
        known = {path.relative_to(self.folder).as_posix(): tuple(stamp) for path, stamp in self.stamps.items()}
        return hashlib.sha256(repr(sorted(known.items())).encode()).hexdigest()

    @property
    def has_tokenizer(self) -> bool:
        return any(path.name in TOKENIZER_FILES for path in self.side_files)

    @property
    def pickled(self) -> bool:
        return self.shards[0].suffix == ".bin"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight files; of the tensors alone where the files are still on the Hub."""
        if all(shard.is_file() for shard in self.shards):
            return sum(shard.stat().st_size for shard in self.shards)
        return sum(info.n_bytes for _, info in self.tensors.values())


def open_source(model: str, revision: str | None = None, read_weights: bool = True) -> Source:
    """Finds a local folder, or downloads a Hub repository into the Hub cache, and reads its config and tensor index.

    read_weights: False fetches the headers of a Hub repository's weight files instead of the files: enough for a plan.

    Raises:
        AlibiError: no such model, no config or weights, or files that do not fit together or cannot be read.
    """
    with explained(f"Cannot read {model}"):
        return _open(model, revision, read_weights)


def _open(model: str, revision: str | None, read_weights: bool) -> Source:
    folder, commit = locate(model, revision, read_weights)
    if revision is not None and commit is None:
        raise UsageError(f"{model} is a local folder; `revision` chooses one of a Hub repository.")
    check_no_adapter(folder, model)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    before = stamps(files)
    config = read_json(folder / "config.json")
    check_not_quantised(folder, model, config)
    cached = any(any(folder.glob(pattern)) for pattern in ("pytorch_model*.bin", "*.safetensors"))
    if commit is not None and not read_weights and not cached:
        tensors = remote_tensors(model, commit, folder)
        shards = sorted({shard for shard, _ in tensors.values()})
    else:
        shards, tensors = _weights(folder)
    relative = {path: path.relative_to(folder).as_posix() for path in files}
    weights = {path for path in files if any(fnmatch(path.name, pattern) for pattern in WEIGHTS)}
    hidden = {path for path in files if any(fnmatch(relative[path], pattern) for pattern in LEFT_BEHIND)}
    side_files = [path for path in files if path not in weights | hidden and relative[path] != "config.json"]
    converted = str(config.get("model_type")).startswith(CONVERTED)
    # Weights that are not converted would be stale; code that is not ours would ask to be trusted with what we wrote.
    left = [
        path
        for path in files
        if (path in weights - hidden and path not in shards and not path.name.endswith(".index.json"))
        or (path in side_files and path.suffix == ".py" and not converted)
    ]
    side_files = [path for path in side_files if path not in left]
    kept = {path: before[path] for path in files if path not in hidden and path not in left}
    return Source(model, folder, commit, revision, config, shards, side_files, left, tensors, kept)


def locate(model: str, revision: str | None = None, read_weights: bool = True) -> tuple[Path, str | None]:
    """The folder that holds a model, and the commit it was resolved to if it came from the Hub.

    Raises:
        AlibiError: no such model, or a folder with a link that leads out of it.
    """
    folder = local_folder(model)
    if folder is None:
        return download(model, revision, read_weights)
    if folder.parent != presets_folder():  # an installer may have linked its files
        with explained(f"Cannot read {model}"):
            check_links(folder)
    return folder, None


def _weights(folder: Path) -> tuple[list[Path], dict[str, tuple[Path, TensorInfo]]]:
    for suffix, single in ((".safetensors", "model.safetensors"), (".bin", "pytorch_model.bin")):
        indexed = (folder / f"{single}.index.json").is_file()
        if indexed and not (folder / single).is_file():  # transformers too takes the single file if there are both
            weight_map = read_json(folder / f"{single}.index.json").get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
                raise AlibiError(f"{folder / single}.index.json has no weight_map.")
            shards = [_inside(folder, name) for name in sorted(set(weight_map.values()))]
        elif (folder / single).is_file():
            weight_map, shards = None, [folder / single]
        else:
            continue
        if len({shard.name for shard in shards}) < len(shards):  # a converted checkpoint has them all in one folder
            raise AlibiError(f"{single}.index.json names two files of one name, in different folders.")
        index = (lambda shard: read_header(shard).tensors) if suffix == ".safetensors" else index_of
        tensors: dict[str, tuple[Path, TensorInfo]] = {}
        for shard in shards:
            for name, info in index(shard).items():
                if name in tensors:
                    raise AlibiError(f"Tensor {name!r} is in both {tensors[name][0].name} and {shard.name}.")
                tensors[name] = (shard, info)
        for name, file in (weight_map or {}).items():
            if name not in tensors or tensors[name][0].name != Path(file).name:
                raise AlibiError(f"{single}.index.json says that {name!r} is in {file}, which does not hold it.")
        return shards, tensors
    raise UsageError(
        f"{folder} has no weights that can be converted.",
        hint="Expected model.safetensors or pytorch_model.bin, or their index.",
    )


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    check_name(folder, name)
    if not path.is_file():
        raise AlibiError(
            f"The index of {folder} names {name!r}, which is missing.", hint="Download or copy the checkpoint again."
        )
    return path
