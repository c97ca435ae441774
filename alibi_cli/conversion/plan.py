"""The conversion plan: what becomes of every tensor and file. `convert --dry-run` shows it, `convert` executes the same object.

The model is built on the meta device, which holds shapes and no numbers, and rewritten there by the registered policies; the
difference between its state dicts before and after *is* the plan.
"""

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from alibi_cli.calibration.learnable import learned_names
from alibi_cli.calibration.learned import Learned
from alibi_cli.conversion.convert_report import PlanReport, SideFiles, Tensors
from alibi_cli.conversion.meta_surgery import MetaSurgery, check_tensors
from alibi_cli.conversion.side_files import OF_CONFIG, edited_files
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.files.dtypes import in_dtype
from alibi_cli.files.tensor_files import NewTensor
from alibi_cli.models.families import check_policy, family_of, mechanism, sink_distance
from alibi_cli.models.plugins import travelling_source
from alibi_cli.models.source import Source
from alibi_cli.runtime import RUNTIME_FILES
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.runtime.modeling_alibi import auto_map_for
from alibi_cli.settings.conversion import PlanSettings
from alibi_cli.slopes import Slopes, get_slopes, read_slopes
from alibi_cli.surgery.apply import alibi_settings
from alibi_cli.surgery.kinds_of_rotation import rotation_reads_length

RESERVED = ("alibi.json", "README.md", "README.source.md", *RUNTIME_FILES)
# Of a config.json: a path of somebody's machine, a choice of attention that conversion replaces, and names of code that stays behind.
LEFT_OUT = ("_name_or_path", "_attn_implementation", "attn_implementation", "_attn_implementation_internal", *OF_CONFIG)


@dataclass(frozen=True)
class Plan:
    """Everything that `convert` is going to do, before any weight is read.

    policy, slopes, offsets, sinks, sink_distance: see `apply_alibi`; slopes are None until a calibration has found them, sinks None if it
    is going to choose them. position_vector: a constant vector stands where position embeddings were. mechanism: in words.
    rotary_scaling: of a rotation that is left behind, a factor of its scores that stays.
    copied: names of tensors that keep their bytes. dropped: names that stay behind. added: names that the converted model has and the
    source lacks. changed: {file's name: model's name} of tensors whose values calibration changes, which are none of `copied`. learned:
    those values and those of `added`. carried: side files, byte for byte. edited: {side file: new content}. loads_lazily: no tensor is put
    together from others when the model is loaded. plugin: source of the plug-in that converts the family, which travels along.
    to_beat: arms of the original that say most of the conversion.
    """

    source: Source
    output: Path
    policy: str
    mechanism: str
    slopes_scheme: str
    slopes: Slopes | None
    offsets: Slopes | None
    sinks: int | None
    position_vector: bool
    rotary_scaling: float | None
    max_sequence_length: int
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
    to_beat: list[str]

    @property
    def family(self) -> str:
        return str(self.source.config.model_type)

    @property
    def architecture(self) -> str:
        return f"Alibi{self.source.model_class.__name__}"

    @property
    def trained_length(self) -> int:
        return self.source.trained_length or 0

    @cached_property
    def sink_distance(self) -> int | None:
        return sink_distance(self.source.config, self.policy, self.sinks or 0)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `apply_alibi` but the model and the length."""
        return {
            "policy": self.policy,
            "slopes": self.slopes,
            "offsets": self.offsets,
            "sinks": self.sinks or 0,
            "sink_distance": self.sink_distance,
            "position_vector": self.position_vector,
        }

    @cached_property
    def config(self) -> dict[str, Any]:
        """The source's config.json with the fewest changes: everything that conversion does not concern stays as it was written."""
        config = self.source.config
        length_key = type(config).attribute_map.get("max_position_embeddings", "max_position_embeddings")
        if hasattr(config, "max_seq_len"):  # MPT
            length_key = "max_seq_len"
        kept = {key: value for key, value in self.source.raw_config.items() if key not in LEFT_OUT}
        declares = self.policy == DEFAULT_POLICY or not rotation_reads_length(config)
        scaling = self.rotary_scaling
        return {
            **kept,
            "architectures": [self.architecture],
            "auto_map": auto_map_for(config.model_type),
            "model_type": f"alibi_{config.model_type}",
            **alibi_settings(**self.settings),
            "alibi_max_sequence_length": self.max_sequence_length,
            **({length_key: self.max_sequence_length} if declares else {}),
            **({"alibi_rotary_scaling": scaling} if scaling not in (None, 1.0) else {}),
        }

    @property
    def free_bytes(self) -> int:
        existing = next(path for path in (self.output, *self.output.parents) if path.exists())
        return shutil.disk_usage(existing).free

    @property
    def auto_class(self) -> str:
        """The Auto class that loads the result in the architecture of the source."""
        autos = [auto for auto, target in self.config["auto_map"].items() if target.endswith(f".{self.architecture}")]
        preferred = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel")
        return next((auto for auto in preferred if auto in autos), autos[0] if autos else "AutoModel")

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

    def completed(self, learned: Learned) -> "Plan":
        """The plan with what a calibration found in place of what was to be found."""
        return replace(
            self,
            slopes=learned.slopes,
            offsets=learned.offsets,
            sinks=learned.sinks,
            learned=learned,
            slopes_scheme=learned.scheme,
        )

    def report(self) -> PlanReport:
        def names(paths: list[Path]) -> list[str]:
            return [path.relative_to(self.source.folder).as_posix() for path in paths]

        return PlanReport(
            source=self.source.name,
            source_commit=self.source.commit,
            output=str(self.output),
            base_model_type=self.family,
            model_type=self.config["model_type"],
            policy=self.family,
            policy_name=self.policy,
            mechanism=self.mechanism,
            slopes_scheme=self.slopes_scheme,
            slopes=self.slopes,
            offsets=self.offsets,
            sinks=self.sinks,
            sink_distance=self.sink_distance,
            trained_length=self.trained_length,
            max_sequence_length=self.max_sequence_length,
            tensors=self.tensors,
            side_files=SideFiles(
                carried=names(self.carried), edited=sorted(self.edited), left_behind=names(self.source.left_behind)
            ),
            bytes_to_write=self.bytes_to_write,
            free_bytes=self.free_bytes,
            loads_with=self.how_it_loads,
            output_occupied=self.output.is_dir() and any(self.output.iterdir()),
            n_tensors=len(self.source.tensors),
        )

    @property
    def tensors(self) -> Tensors:
        return Tensors(copied=len(self.copied), dropped=self.dropped, added=self.added, changed=sorted(self.changed))

    @property
    def how_it_loads(self) -> str:
        return f'{self.auto_class}.from_pretrained("{self.output}", trust_remote_code=True)'


def make_plan(source: Source, output: Path, settings: PlanSettings) -> Plan:
    """Plans a conversion; one of calibrated slopes is to be completed by what the calibration finds.

    Raises:
        AlibiError: unsupported family or policy, slopes that do not fit, or weights that do not fit the config.
    """
    config, policy = source.config, settings.policy
    check_policy(config, policy, source.name, settings.sinks or 0)
    declared = settings.length_for(source.trained_length)
    if declared < 1:
        raise UsageError("The config names no length.", hint="Give `max_sequence_length`.")
    settings.check_length(declared)
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    if not all(type(n) is int and n >= 1 for n in (heads, layers)):
        raise AlibiError(f"The config.json of {source.name} has {heads} attention heads in {layers} layers.")
    calibrated = settings.calibrated
    slopes = None if calibrated else _slopes(settings, heads, layers)
    sinks = settings.wanted_sinks if calibrated else settings.sinks or 0
    offsets = [float(settings.offset)] * heads if settings.offset and not calibrated else None
    vector = calibrated and policy == DEFAULT_POLICY
    # Names and shapes do not depend on which slopes and sinks a calibration is going to find.
    meta = MetaSurgery(
        source.model_class,
        config,
        declared,
        policy,
        get_slopes(heads) if slopes is None else slopes,
        sinks=sinks or 0,
        sink_distance=sink_distance(config, policy, sinks or 0),
        offsets=offsets,
        position_vector=vector,
    )
    check_tensors(source, meta)
    names = {name: meta.name_of(name)[0] for name in source.tensors}
    dropped = [name for name in names if names[name] in meta.dropped]
    method = settings.method if calibrated else ""
    added, learned = learned_names(meta.model, method) if vector else ([], [])
    changed = {name: names[name] for name in names if names[name] in learned}
    edited = edited_files(source, declared)
    carried = [
        path for path in source.side_files if path.relative_to(source.folder).as_posix() not in {*edited, *RESERVED}
    ]
    dropped_bytes = sum(source.tensors[name][1].n_bytes for name in dropped)
    return Plan(
        source=source,
        output=output,
        policy=policy,
        mechanism=mechanism(family_of(config.model_type), policy),
        slopes_scheme=settings.scheme if calibrated else _scheme(settings),
        slopes=slopes,
        offsets=offsets,
        sinks=sinks,
        position_vector=bool(added),
        rotary_scaling=meta.rotary_scaling,
        max_sequence_length=declared,
        copied=[name for name in names if name not in changed and name not in set(dropped)],
        dropped=dropped,
        added=sorted(set(meta.after) - set(meta.before)),
        changed=changed,
        learned=None,
        bytes_to_write=source.weight_bytes - dropped_bytes + sum(path.stat().st_size for path in carried),
        carried=carried,
        edited=edited,
        loads_lazily=not source.pickled and all(meta.name_of(name)[1] for name in source.tensors),
        plugin=travelling_source(meta.sources),
        to_beat=meta.to_beat,
    )


def _slopes(settings: PlanSettings, heads: int, layers: int) -> Slopes:
    if settings.slopes != "press":
        return read_slopes(Path(settings.slopes), heads, layers)
    return get_slopes(heads) if settings.max_bias is None else get_slopes(heads, settings.max_bias)


def _scheme(settings: PlanSettings) -> str:
    if settings.slopes != "press":
        return f"file {Path(settings.slopes).name}"
    return "press" if settings.max_bias is None else f"press, max_bias {settings.max_bias:g}"
