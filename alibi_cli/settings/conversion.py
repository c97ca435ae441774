"""Settings of convert, plan and calibrate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from alibi_cli.errors import UsageError
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.on_disk import check_folder, check_json, check_models, check_plugins, check_texts
from alibi_cli.settings.shared import LONGEST, Command, MaxBias, Model, Plugin, Revision

Method = Literal["reach", "look-back", "distil", "distil+norms"]
# The first of each policy is its default. A plug-in's policy has "distil".
METHODS: dict[str, tuple[Method, ...]] = {
    DEFAULT_POLICY: ("distil", "look-back", "distil+norms"),
    "add": ("reach", "distil"),
}
DECLARED = 4  # of the trained length
# Tokens to learn from, unless told otherwise; the second for the distillation of an added bias, which begins almost at its end.
TOKENS = {"reach": 1 << 14, "look-back": 1 << 14, "distil": 1 << 18, "distil+norms": 1 << 18}
ADDED_TOKENS = 1 << 16
# Of the range of an added bias: how far beyond it reach looks, and the longest windows on which it is distilled.
REACH_LENGTH, DISTIL_LENGTH = 1.5, 4
CALIBRATION = "Calibration"
ONLY_CALIBRATED = ("calibrate", "calibration_text", "calibration_tokens", "calibration_length", "horizon", "grid")


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Verb):
    """What a calibration finds slopes for, and how."""

    policy: Annotated[
        str,
        Setting(
            "replace: ALiBi instead of the model's positional encoding, as in the paper. add: the bias beside a rotation that stays. "
            "NAME: a plug-in's policy.",
            metavar="replace|add|NAME",
        ),
    ] = DEFAULT_POLICY
    sinks: Annotated[
        int | None,
        Setting(
            "Attention sinks: how many first tokens of every document get no bias. Default: 0, or what calibration chooses.",
            minimum=0,
            maximum=LONGEST,
        ),
    ] = None
    offset: Annotated[
        int | None,
        Setting(
            "Distance in tokens up to which an added bias is zero: -m max(0, |i - j| - N). 0 is the textbook bias. Default: the trained "
            "length, or the horizon, with calibrated slopes; 0 with others.",
            metavar="N",
            minimum=0,
            maximum=LONGEST,
        ),
    ] = None
    calibrate: Annotated[
        Method | None,
        Setting(
            "How slopes are calibrated. reach (for policy add): the gentlest slopes that hide what lies beyond the trained length, "
            "in one forward pass. look-back (for replace): from how far each head looks back. distil: by imitating the original's "
            "predictions. distil+norms (for replace): normalisation weights too. Default: reach for add, distil for replace.",
            panel=CALIBRATION,
        ),
    ] = None
    calibration_tokens: Annotated[
        int | None,
        Setting(
            f"Number of calibration tokens, one window at least. Default: {TOKENS['distil']} for distil, {ADDED_TOKENS} of an added bias; "
            f"{TOKENS['reach']} for reach and look-back.",
            minimum=1,
            maximum=LONGEST,
            panel=CALIBRATION,
        ),
    ] = None
    calibration_length: Annotated[
        int | None,
        Setting(
            f"Tokens of the longest window that calibration feeds. Default: for policy add {REACH_LENGTH} (reach) or {DISTIL_LENGTH} "
            "(distil) times the trained length; for replace the trained length.",
            minimum=2,
            maximum=LONGEST,
            panel=CALIBRATION,
        ),
    ] = None
    horizon: Annotated[
        int | None,
        Setting(
            "Calibrate an added bias for the last H tokens instead of the trained length.",
            metavar="H",
            minimum=2,
            maximum=LONGEST,
            panel=CALIBRATION,
        ),
    ] = None
    grid: Annotated[
        Literal["press"] | None,
        Setting(
            "press: end a calibration of policy replace on Press et al.'s slopes, in the order nearest to what was found, so that alibi "
            "export can write them.",
            panel=CALIBRATION,
        ),
    ] = None
    max_sequence_length: Annotated[
        int | None,
        Setting(
            "The length that the config declares, and for which an added bias is calibrated; no tensor is sized by it. "
            f"Default: {DECLARED} x the trained length.",
            minimum=1,
            maximum=LONGEST,
        ),
    ] = None
    seed: Annotated[int, Setting("Which windows of the text are fed.", option=False, preset=False)] = 0

    @property
    def methods(self) -> tuple[Method, ...]:
        return METHODS.get(self.policy, ("distil",))

    @property
    def method(self) -> Method:
        return self.calibrate or self.methods[0]

    @property
    def wanted_sinks(self) -> int | None:
        """None: to be chosen. A GGUF file, for which a grid is, cannot hold any."""
        return 0 if self.grid is not None else self.sinks

    @property
    def scheme(self) -> str:
        """How the slopes come about, in words."""
        return f"calibrated, {self.method}" + (", on Press's grid" if self.grid else "")

    def length_for(self, trained_length: int | None) -> int:
        """The length that the config is to declare; 0 if neither the settings nor the original name one."""
        return self.max_sequence_length or DECLARED * (trained_length or 0)

    def check_length(self, declared: int) -> None:
        """
        Raises:
            UsageError: no two tokens of the declared length have a bias between them.
        """
        for name, value in (("sinks", self.sinks), ("offset", self.offset)):
            if value is not None and value >= declared:
                raise UsageError(
                    f"`{name}={value}` would leave the declared length, {declared} tokens, without a bias."
                )

    def check_method(self) -> None:
        """
        Raises:
            UsageError: the policy is not calibrated by the method.
        """
        if self.calibrate is not None and self.calibrate not in self.methods:
            known = " or ".join(self.methods)
            raise UsageError(f"The policy {self.policy} is not calibrated by {self.calibrate}, but by {known}.")

    def check(self) -> None:
        super().check()
        if self.policy in METHODS:  # whether there is another by this name is known when plug-ins are loaded
            self.check_method()
        if self.grid is not None and self.policy != DEFAULT_POLICY:
            raise UsageError(
                f"A `grid` is for slopes that replace positions, which a GGUF file can hold; policy {self.policy} keeps them."
            )
        if self.grid is not None and self.sinks:
            raise UsageError(f"A `grid` is for GGUF files, which cannot hold `sinks`; {self.sinks} were asked for.")
        if self.max_sequence_length is not None:
            self.check_length(self.max_sequence_length)
        for name in ("offset", "horizon"):
            if self.policy == DEFAULT_POLICY and getattr(self, name):
                raise UsageError(f"`{name}` is for a bias that is added; policy replace is textbook ALiBi.")


@dataclass(frozen=True, kw_only=True)
class PlanSettings(CalibrateSettings):
    """What a conversion is to do, before it does anything."""

    model: Model
    output: Annotated[
        Path | None,
        Setting(
            "Where to write. Default: MODEL's name + -alibi.", flags=("--output", "-o"), metavar="DIR", preset=False
        ),
    ] = None
    slopes: Annotated[
        str,
        Setting(
            "Press et al.'s slopes; slopes that imitate the original's attention; or a JSON file: one list, or one list per layer.",
            metavar="press|calibrated|FILE",
        ),
    ] = "press"
    calibration_text: Annotated[
        tuple[Path, ...],
        Setting(
            "Calibrate on this text; repeatable. Default: the embedded text.",
            metavar="FILE",
            panel=CALIBRATION,
            preset=False,
        ),
    ] = ()
    max_bias: MaxBias = None
    revision: Revision = None
    plugin: Plugin = ()

    def check(self) -> None:
        given = [name for name in ONLY_CALIBRATED if getattr(self, name) not in (None, ())]
        if given and not self.calibrated:
            raise UsageError(f"`{given[0]}` needs `slopes=calibrated`.")
        super().check()
        if self.calibrated and self.max_bias is not None:
            raise UsageError("`max_bias` shapes Press's slopes; it cannot be combined with calibrated ones.")
        if self.slopes not in ("press", "calibrated") and self.max_bias is not None:
            raise UsageError("`max_bias` shapes Press's slopes; it cannot be combined with a slopes file.")
        check_models([self.model], self.revision)
        check_plugins(self.plugin)
        check_texts(self.calibration_text)
        if self.slopes not in ("press", "calibrated"):
            check_json("slopes", Path(self.slopes))
        if self.output is not None:
            check_folder(self.output, self.model, force=True)

    @property
    def target(self) -> Path:
        """The output, or where a conversion of the model goes unless that is given."""
        if self.output is not None:
            return self.output
        path = Path(self.model).expanduser()
        return Path(f"{path.resolve().name if path.exists() else self.model.rpartition('/')[2]}-alibi")

    @property
    def calibrated(self) -> bool:
        return self.slopes == "calibrated"


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(PlanSettings):
    """What a conversion is to do."""

    force: Annotated[bool, Setting("Replace a non-empty DIR, once the new one is verified.", preset=False)] = False
    link: Annotated[
        bool,
        Setting(
            "Hard-link the weight files that stay as they are, instead of copying them: whoever edits one in place, edits both.",
            preset=False,
            written=True,
        ),
    ] = False
    verify: Annotated[
        bool,
        Setting(
            "Reload the result and compare its logits before DIR gets its name.",
            flags=("--verify/--no-verify",),
            written=True,
        ),
    ] = True
    command: Command = ""

    def check_output(self) -> None:
        super().check_output()
        check_folder(self.target, self.model, self.force)
