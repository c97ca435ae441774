"""The verb `inspect_environment`: the versions, devices, paths and variables that results and faults depend on, for a bug report."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pydantic import BaseModel

from alibi_cli.errors import first_line
from alibi_cli.version import __version__

# Those that change what a command does. Only these are shown, so that no secret is.
VARIABLES = (
    "ALIBI_DEBUG",
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_CACHE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_HUB_OFFLINE",
    "HIP_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "MKL_NUM_THREADS",
    "NO_COLOR",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "TOKENIZERS_PARALLELISM",
    "TORCHDYNAMO_DISABLE",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRANSFORMERS_OFFLINE",
    "TRANSFORMERS_VERBOSITY",
    "WORLD_SIZE",
)
FOR_DEVELOPMENT = "dev"  # the extra that no user needs


class EnvironmentReport(BaseModel):
    """What `inspect_environment` returns, and the JSON of `alibi env`. packages: versions of what alibi-cli needs and of what its extras
    bring, null for what is not installed. extras: {extra: packages that it lacks}. devices: {name as `device` takes it: what it is}.
    hub_token: whether there is one; it is not read. In paths and variables ~ stands for the home directory."""

    alibi_cli: str
    python: str
    system: str
    packages: dict[str, str | None]
    extras: dict[str, list[str]]
    devices: dict[str, str]
    paths: dict[str, str]
    variables: dict[str, str]
    hub_token: bool

    def markdown(self) -> str:
        """A table for an issue on a repository host."""
        rows = [("alibi-cli", self.alibi_cli), ("python", self.python), ("system", self.system)]
        rows += [(name, found) for name, found in self.packages.items() if found is not None]
        rows += [
            (f"extra {name}", f"lacks {', '.join(lacks)}" if lacks else "found") for name, lacks in self.extras.items()
        ]
        rows += [*self.devices.items(), *((f"path of {name}", path) for name, path in self.paths.items())]
        rows += [("token for the Hub", "found" if self.hub_token else "none"), *self.variables.items()]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)])


def inspect_environment() -> EnvironmentReport:
    """What is installed and on which machine. Nothing is loaded but torch, and no secret is shown."""
    from huggingface_hub import constants

    needed = list(_requirements())
    packages = {name: _version(name) for name, extra in needed if extra != FOR_DEVELOPMENT}
    extras: dict[str, list[str]] = {}
    for name, extra in needed:
        if extra not in (None, FOR_DEVELOPMENT):
            extras.setdefault(extra, []).extend([name] if packages[name] is None else [])
    paths = {
        "alibi_cli": Path(__file__).parent,
        "python": Path(sys.executable),
        "the Hub's cache": constants.HF_HUB_CACHE,
    }
    return EnvironmentReport(
        alibi_cli=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        packages=packages,
        extras=extras,
        devices=_devices(),
        paths={name: _without_home(str(path)) for name, path in paths.items()},
        variables={name: _without_home(os.environ[name]) for name in VARIABLES if name in os.environ},
        hub_token=bool(os.environ.get("HF_TOKEN")) or Path(constants.HF_TOKEN_PATH).is_file(),
    )


def _requirements() -> Iterator[tuple[str, str | None]]:
    """(package, extra that it belongs to) as the installed metadata has them; torch and transformers where it is not installed."""
    try:
        lines = requires("alibi-cli") or []
    except PackageNotFoundError:
        lines = ["torch", "transformers"]
    for line in lines:
        name, extra = re.split(r"[^\w.-]", line)[0], re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        yield name, extra and extra[1]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    try:
        import torch
    except Exception as error:  # a broken installation is what a report is made for
        return {"cpu": f"torch cannot be imported: {first_line(error)}"}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else None
    of_memory = "" if memory is None else f", {memory:.0f} GB of memory"
    found = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads{of_memory}"}
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{about.name}, {about.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def _without_home(text: str) -> str:
    """~ for the home directory, which holds a name; no password of an address."""
    home = str(Path.home())
    text = re.sub(rf"{re.escape(home)}(?=[/\\:,]|$)", "~", text) if len(home) > 1 else text
    return re.sub(r"://[^/@\s]+@", "://…@", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
