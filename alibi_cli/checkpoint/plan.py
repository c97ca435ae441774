"""The conversion plan: what becomes of every tensor and file. `--dry-run` prints it, `convert` executes the same object.

The model is built on the meta device, which holds shapes and no numbers, and rewritten there by the registered policies; the
difference between its state dicts before and after *is* the plan.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alibi_cli.checkpoint.learned import Learned, in_dtype
from alibi_cli.checkpoint.meta import MetaSurgery, check_tensors
from alibi_cli.checkpoint.safetensors_io import NewTensor
from alibi_cli.checkpoint.source import Source, read_json
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.families import check_policy, config_of, family_of, mechanism, model_class, sink_distance, trained_length
from alibi_cli.plugins import travelling_source
from alibi_cli.runtime import RUNTIME_FILES
from alibi_cli.runtime.alibi_surgery import DEFAULT_POLICY
from alibi_cli.runtime.modeling_alibi import auto_map_for
from alibi_cli.slopes import Slopes, get_slopes, read_slopes
from alibi_cli.surgery.apply import alibi_settings, rotation_reads_length

RESERVED = ("alibi.json", "README.md", "README.source.md", *RUNTIME_FILES)
# Of a config.json: a path of somebody's machine, and a choice of attention that conversion replaces.
LEFT_OUT = ("_name_or_path", "_attn_implementation", "attn_implementation", "_attn_implementation_internal")


@dataclass(frozen=True)
class Plan:
    """Everything that `convert` is going to do, before any weight is read.

    policy, slopes, offsets, sinks, sink_distance: see `apply_alibi`. position_vector: a constant vector stands where a table was.
    mechanism: in words.
    config: the converted config.json. copied: names of tensors that keep their bytes. dropped: names that stay behind. added: names
    that the converted model has and the source lacks. changed: {file's name: model's name} of tensors whose values calibration changes,
    which are none of `copied`. learned: those values and those of `added`. carried: side files, byte for byte. edited: {side file: new
    content}. loads_lazily: no tensor is put together from others when the model is loaded. plugin: source of the plug-in that converts
    the family, which travels along.
    """

    source: Source
    output: Path
    family: str
    policy: str
    mechanism: str
    slopes_scheme: str
    slopes: Slopes
    offsets: Slopes | None
    sinks: int
    sink_distance: int | None
    position_vector: bool
    max_sequence_length: int
    trained_length: int
    config: dict[str, Any]
    architecture: str
    copied: list[str]
    dropped: list[str]
    added: list[str]
    changed: dict[str, str]
    learned: Learned | None
    bytes_to_write: int
    carried: list[Path]
    edited: dict[str, bytes]
    loads_lazily: bool
    plugin: bytes | None

    @property
    def free_bytes(self) -> int:
        existing = next(path for path in (self.output, *self.output.parents) if path.exists())
        return shutil.disk_usage(existing).free

    @property
    def output_state(self) -> str:
        """A remark if the output folder is in the way."""
        occupied = self.output.is_dir() and any(self.output.iterdir())
        return " (exists and is not empty: `force` would replace it)" if occupied else ""

    @property
    def auto_class(self) -> str:
        """The Auto class that loads the result in the architecture of the source."""
        autos = [auto for auto, target in self.config["auto_map"].items() if target.endswith(f".{self.architecture}")]
        preferred = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM", "AutoModelForMaskedLM")
        return next((auto for auto in preferred if auto in autos), autos[0] if autos else "AutoModel")

    @property
    def slopes_shape(self) -> str:
        """In words: 8 heads, or 4 layers of 8 heads."""
        first = self.slopes[0]
        return (
            f"{len(self.slopes)} layers of {len(first)} heads"
            if isinstance(first, list)
            else f"{len(self.slopes)} heads"
        )

    @property
    def to_be_calibrated(self) -> bool:
        """True if nothing is known yet of what a calibration finds."""
        return self.learned is not None and not self.learned.record

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `apply_alibi` but the model and the length."""
        return {
            "policy": self.policy,
            "slopes": self.slopes,
            "offsets": self.offsets,
            "sinks": self.sinks,
            "sink_distance": self.sink_distance,
            "position_vector": self.position_vector,
        }

    @property
    def kept_by_shard(self) -> dict[Path, list[str]]:
        """{weight file of the source: its tensors that stay}, of the files of which any stays. The first takes those that are added."""
        kept: dict[Path, list[str]] = {shard: [] for shard in self.source.shards}
        for name in [*self.copied, *self.changed]:
            kept[self.source.tensors[name][0]].append(name)
        return {shard: names for shard, names in kept.items() if names}

    @property
    def untouched(self) -> list[Path]:
        """Weight files that stay as they are, to the byte."""
        if self.source.pickled:
            return []
        shards = list(self.kept_by_shard)[1 if self.added else 0 :]
        touched = {self.source.tensors[name][0] for name in [*self.dropped, *self.changed]}
        return [shard for shard in shards if shard not in touched]

    def learned_tensors(self) -> tuple[dict[str, NewTensor], dict[str, NewTensor]]:
        """(changed, added) as files hold them: what changes keeps its type, what comes has the type of what it replaces."""
        if self.learned is None:
            return {}, {}
        types = {name: info.dtype for name, (_, info) in self.source.tensors.items()}
        replaced = types[self.dropped[0]] if self.dropped else next(iter(types.values()))
        changed = {name: in_dtype(self.learned.changed[key], types[name]) for name, key in self.changed.items()}
        return changed, {name: in_dtype(tensor, replaced) for name, tensor in self.learned.added.items()}

    def summary(self) -> dict[str, Any]:
        """The plan as one JSON object; null stands for what a calibration is going to find."""
        return {
            "source": self.source.name,
            "source_commit": self.source.commit,
            "output": str(self.output),
            "base_model_type": self.family,
            "model_type": self.config["model_type"],
            "policy": self.family,
            "policy_name": self.policy,
            "mechanism": self.mechanism,
            "slopes_scheme": self.slopes_scheme,
            "slopes": None if self.to_be_calibrated else self.slopes,
            "offsets": self.offsets,
            "sinks": self.learned.sinks if self.learned and self.to_be_calibrated else self.sinks,
            "sink_distance": self.sink_distance,
            "trained_length": self.trained_length,
            "max_sequence_length": self.max_sequence_length,
            "tensors": {
                "copied": len(self.copied),
                "dropped": self.dropped,
                "added": self.added,
                "changed": sorted(self.changed),
            },
            "side_files": {
                "carried": [path.relative_to(self.source.folder).as_posix() for path in self.carried],
                "edited": sorted(self.edited),
                "left_behind": [path.relative_to(self.source.folder).as_posix() for path in self.source.left_behind],
            },
            "bytes_to_write": self.bytes_to_write,
            "free_bytes": self.free_bytes,
            "loads_with": self.how_it_loads,
        }

    @property
    def how_it_loads(self) -> str:
        return f'{self.auto_class}.from_pretrained("{self.output}", trust_remote_code=True)'


def make_plan(
    source: Source,
    output: Path,
    slopes: str | Learned = "press",
    max_bias: float | None = None,
    max_sequence_length: int | None = None,
    policy: str = DEFAULT_POLICY,
    sinks: int | None = None,
    offset: int | None = None,
) -> Plan:
    """Plans a conversion.

    Args:
        policy: "replace", "add", or a plug-in's; see `apply_alibi`.
        sinks: how many first tokens of every document get no bias; what calibration chose, or 0, if not given.
        slopes: "press", the path of a JSON file with one list of slopes, or one list per layer, or what calibration learned.
        max_bias: the exponent of the gentlest slope, instead of Press's 8.
        offset: tokens of distance up to which an added bias is zero, for slopes that are not calibrated.
        max_sequence_length: what the config promises; four times the trained length if not given.

    Raises:
        AlibiError: unsupported family or policy, slopes that do not fit, or weights that do not fit the config.
    """
    config = config_of(source.config, source.name)
    check_policy(config, policy, source.name, sinks or 0)
    if offset and policy == DEFAULT_POLICY:
        raise UsageError(
            "An offset is for a bias that is added; policy replace is textbook ALiBi."
        )
    cls = model_class(config)
    trained = trained_length(config) or 0
    promised = max_sequence_length or 4 * trained
    if promised < 1:
        raise UsageError("The config names no length.", hint="Give `max_sequence_length`.")
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    if not all(type(n) is int and n >= 1 for n in (heads, layers)):
        raise AlibiError(f"The config.json of {source.name} has {heads} attention heads in {layers} layers.")
    learned = slopes if isinstance(slopes, Learned) else None
    values, scheme = _slopes(slopes, max_bias, heads, layers)
    if sinks is None:
        sinks = (learned.sinks if learned is not None else 0) or 0
    offsets = learned.offsets if learned is not None else [float(offset)] * heads if offset else None
    near = sink_distance(config, policy, sinks)
    settings: dict[str, Any] = {"sinks": sinks, "sink_distance": near, "offsets": offsets}
    settings["position_vector"] = learned is not None and bool(learned.added)

    meta = MetaSurgery(cls, config, promised, policy, values, **settings)
    check_tensors(source, meta)
    names = {name: meta.name_of(name)[0] for name in source.tensors}
    dropped = [name for name in names if names[name] in meta.dropped]
    changed = {name: names[name] for name in names if learned is not None and names[name] in learned.changed}
    architecture = f"Alibi{cls.__name__}"
    keys = alibi_settings(policy, values, **settings)
    new_config = _converted_config(source.config, config, architecture, keys, promised)
    if meta.rotary_scaling not in (None, 1.0):
        new_config["alibi_rotary_scaling"] = meta.rotary_scaling
    edited = _edited_tokenizer_config(source, trained, promised)
    carried = [
        path for path in source.side_files if path.relative_to(source.folder).as_posix() not in {*edited, *RESERVED}
    ]
    dropped_bytes = sum(source.tensors[name][1].n_bytes for name in dropped)
    return Plan(
        source=source,
        output=output,
        family=config.model_type,
        policy=policy,
        mechanism=mechanism(family_of(config.model_type), policy),
        slopes_scheme=scheme,
        slopes=values,
        **settings,
        max_sequence_length=promised,
        trained_length=trained,
        config=new_config,
        architecture=architecture,
        copied=[name for name in names if name not in changed and name not in set(dropped)],
        dropped=dropped,
        added=sorted(set(meta.after) - set(meta.before)),
        changed=changed,
        learned=learned,
        bytes_to_write=source.weight_bytes - dropped_bytes + sum(path.stat().st_size for path in carried),
        carried=carried,
        edited=edited,
        loads_lazily=not source.pickled and all(meta.name_of(name)[1] for name in source.tensors),
        plugin=travelling_source(meta.sources),
    )


def _slopes(slopes: str | Learned, max_bias: float | None, heads: int, layers: int) -> tuple[Slopes, str]:
    if isinstance(slopes, Learned):
        return slopes.slopes, slopes.scheme
    if slopes != "press":
        if max_bias is not None:
            raise UsageError(
                "`max_bias` shapes Press's slopes; it cannot be combined with a slopes file."
            )
        return read_slopes(Path(slopes), heads, layers), f"file {Path(slopes).name}"
    if max_bias is None:
        return get_slopes(heads), "press"
    try:
        return get_slopes(heads, max_bias), f"press, max_bias {max_bias:g}"
    except ValueError as error:
        raise UsageError(str(error)) from None


def _converted_config(
    raw: dict[str, Any], config: Any, architecture: str, keys: dict[str, Any], promised: int
) -> dict[str, Any]:
    """The source's config.json with the fewest changes: everything that conversion does not concern stays as it was written."""
    length_key = type(config).attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if hasattr(config, "max_seq_len"):  # MPT
        length_key = "max_seq_len"
    kept = {key: value for key, value in raw.items() if key not in LEFT_OUT}
    replaces = keys.get("alibi_policy", DEFAULT_POLICY) == DEFAULT_POLICY
    return {
        **kept,
        "architectures": [architecture],
        "auto_map": auto_map_for(config.model_type),
        "model_type": f"alibi_{config.model_type}",
        **keys,
        "alibi_max_sequence_length": promised,
        **({length_key: promised} if replaces or not rotation_reads_length(config) else {}),
    }


def _edited_tokenizer_config(source: Source, trained: int, promised: int) -> dict[str, bytes]:
    """Two facts that the tokenizer took from the old model: its maximum length, and its class, which AutoTokenizer infers from the
    model_type of a stock model and cannot infer from a converted one."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    path = source.folder / "tokenizer_config.json"
    names = {file.name for file in source.side_files}
    if path not in source.side_files and not names & {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model"}:
        return {}
    tokenizer = read_json(path) if path in source.side_files else {}
    before = dict(tokenizer)
    longest = tokenizer.get("model_max_length")
    if isinstance(longest, int) and longest <= trained:
        tokenizer["model_max_length"] = promised
    inferred = TOKENIZER_MAPPING_NAMES.get(source.config["model_type"])
    if "tokenizer_class" not in tokenizer and isinstance(inferred, str):
        tokenizer["tokenizer_class"] = inferred
    return (
        {}
        if tokenizer == before
        else {path.name: (json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n").encode()}
    )
