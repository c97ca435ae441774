"""Settings of export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from alibi_cli.errors import UsageError
from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.on_disk import check_converted

GgufType = Literal["f32", "f16", "bf16", "q8_0"]


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Verb):
    """Which checkpoint is exported, and how."""

    folder: Annotated[Path, Setting("A converted checkpoint.", argument=True, metavar="DIR")]
    output: Annotated[Path, Setting("The file to write.", flags=("--output", "-o"), metavar="FILE.gguf")]
    to: Annotated[Literal["gguf"], Setting("The format: gguf, which llama.cpp and what is built on it run.")] = "gguf"
    dtype: Annotated[
        GgufType | None,
        Setting("Dtype of the matrices; vectors stay in f32. Default: the checkpoint's own type."),
    ] = None
    approximate: Annotated[
        bool, Setting("Allow llama.cpp's tanh GELU in place of the exact GELU of some families.")
    ] = False
    force: Annotated[bool, Setting("Replace FILE.gguf, once the new one is verified.")] = False
    verify: Annotated[
        bool,
        Setting(
            "Compare tokens and log-probabilities with transformers before FILE.gguf gets its name: by llama.cpp if it is installed.",
            flags=("--verify/--no-verify",),
        ),
    ] = True

    def check(self) -> None:
        super().check()
        output = self.output.expanduser()
        if output.suffix != ".gguf":
            raise UsageError(f"`output`: {output} must end in .gguf.")
        if output.is_dir() or output.is_symlink() or not output.parent.is_dir():
            what = "is a folder" if output.is_dir() else "is a link" if output.is_symlink() else "lies in no folder"
            raise UsageError(f"`output`: {output} {what}.")
        if output.exists() and not self.force:
            raise UsageError(f"{output} exists.", "Choose another file, or replace it with `force`.")
        check_converted(str(self.folder))
