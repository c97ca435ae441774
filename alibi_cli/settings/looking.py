"""Settings of verify and of inspect."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from alibi_cli.errors import UsageError
from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.on_disk import check_models, check_plugins, check_texts
from alibi_cli.settings.shared import LONGEST, MaxBias, Plugin, Revision


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Verb):
    """Which checkpoint is verified."""

    folder: Annotated[Path, Setting("A converted checkpoint.", argument=True, metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class HeadsSettings(Verb):
    """Whose heads are looked at, and on what. model: as in `evaluate`."""

    model: Annotated[Any, Setting("A local folder, or the name of a Hub repository.", argument=True, metavar="MODEL")]
    text: Annotated[
        tuple[Path, ...],
        Setting("Look at the heads on this text; repeatable. Default: the embedded text.", metavar="FILE"),
    ] = ()
    tokens: Annotated[
        int, Setting("Tokens of text to look at; two windows are the least.", minimum=1, maximum=LONGEST)
    ] = 8192
    length: Annotated[
        int | None,
        Setting("Tokens in a window. Default: the trained length, but at most 1,024.", minimum=2, maximum=LONGEST),
    ] = None
    # Four, as many as StreamingLLM keeps.
    sinks: Annotated[
        int, Setting("First tokens of a window that count as attention sinks.", metavar="N", minimum=0, maximum=LONGEST)
    ] = 4
    revision: Revision = None
    plugin: Plugin = ()

    def check(self) -> None:
        super().check()
        check_models([self.model], self.revision)
        check_plugins(self.plugin)
        check_texts(self.text)


@dataclass(frozen=True, kw_only=True)
class SlopesSettings(Verb):
    """Whose slopes are shown."""

    model: Annotated[
        str | None,
        Setting(
            "A checkpoint folder or Hub name; its own slopes if it is converted.", argument=True, metavar="[MODEL]"
        ),
    ] = None
    heads: Annotated[int | None, Setting("Number of attention heads.", minimum=1, maximum=4096)] = None
    max_bias: MaxBias = None

    def check(self) -> None:
        super().check()
        if self.model is not None and self.heads is not None:
            raise UsageError("Give a model or `heads`, not both.")
        if self.model is not None:
            check_models([self.model])


@dataclass(frozen=True, kw_only=True)
class BiasSettings(Verb):
    """Of which heads the bias is drawn, and how far."""

    heads: Annotated[int, Setting("Number of attention heads.", minimum=1, maximum=256)] = 8
    length: Annotated[int, Setting("Number of tokens.", minimum=1, maximum=65536)] = 64
    causal: Annotated[
        bool, Setting("Decoders see the past alone; encoders both sides.", flags=("--causal/--symmetric",))
    ] = True


@dataclass(frozen=True, kw_only=True)
class PoliciesSettings(Verb):
    """Whose policies are shown."""

    plugin: Plugin = ()

    def check(self) -> None:
        super().check()
        check_plugins(self.plugin)
