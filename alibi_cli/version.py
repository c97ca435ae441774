"""The one place of the version: packages, `--version`, checkpoints and records read it here."""

__version__ = "0.2.0"
