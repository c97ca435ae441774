"""Where an interrupted calibration is continued: a folder beside the output, with what has been found so far."""

import time
from pathlib import Path
from typing import Any

import torch

from alibi_cli.errors import explained
from alibi_cli.files.atomic import new_file

SECONDS = 20.0  # between two states that are written


class State:
    """Keeps values by name in `folder`, for calibrations that agree in `key` (settings, text, source); nothing without a folder."""

    def __init__(self, folder: Path | None, key: str = ""):
        self.folder, self.key, self._written = folder, key, time.monotonic()

    def is_due(self) -> bool:
        """True once in a while: writing must not take more time than calibrating."""
        return self.folder is not None and time.monotonic() - self._written >= SECONDS

    def save(self, name: str, value: Any) -> None:
        """Tensors, numbers, strings, and lists and dicts of them; replaces what is there under the name, whole or not at all."""
        if self.folder is None:
            return
        with explained(f"Cannot write {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with new_file(self.folder / f"{name}.pt") as temporary:
                torch.save({"key": self.key, "value": value}, temporary)
        self._written = time.monotonic()

    def load(self, name: str) -> Any:
        """What was kept; None if nothing was, if it cannot be read, or if it belongs to another calibration."""
        if self.folder is None or not (self.folder / f"{name}.pt").is_file():
            return None
        try:
            found = torch.load(self.folder / f"{name}.pt", weights_only=True)
        except Exception:  # the unpickler meets damage with errors of many types
            return None
        return found["value"] if isinstance(found, dict) and found.get("key") == self.key else None

    def clear(self) -> None:
        """Called when the checkpoint has been written. A folder that holds anything else stays."""
        if self.folder is not None and self.folder.is_dir():
            for path in (*self.folder.glob("*.pt"), *self.folder.glob("*.pt.tmp")):
                path.unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


NOWHERE = State(None)
