"""Presets: named, commented YAML settings, and the demonstration checkpoints that lie beside them."""

import difflib
from pathlib import Path
from typing import Any, Literal

from alibi_cli.errors import EXIT_USAGE, AlibiError

DEMONSTRATIONS = ("demo-gpt2", "demo-llama")


def presets_folder() -> Path:
    """Inside the package in an installed wheel, beside it in a clone."""
    package = Path(__file__).parent
    return package / "presets" if (package / "presets").is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def load_preset(name: str) -> tuple[str, str, dict[str, Any]]:
    """(command, description, settings) of a preset; only the settings that its file names.

    Raises:
        AlibiError: no such preset, or a file that does not fit the schema of its command.
    """
    path = presets_folder() / f"{name}.yaml"
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        raise AlibiError(
            f"There is no preset {name!r}; there are {', '.join(preset_names())}.",
            f"Did you mean {close[0]}?" if close else None,
            EXIT_USAGE,
        )
    return parse_preset(path.read_text(encoding="utf-8"), path.name)


def parse_preset(text: str, where: str) -> tuple[str, str, dict[str, Any]]:
    """As `load_preset`, from the text of a file."""
    import yaml
    from pydantic import BaseModel, ConfigDict, ValidationError

    class Convert(BaseModel):
        model_config = ConfigDict(extra="forbid")
        policy: str = "replace"
        slopes: str = "press"
        sinks: int | None = None
        offset: int | None = None
        calibrate: Literal["reach", "look-back", "distil", "distil+norms"] | None = None
        calibration_tokens: int | None = None
        calibration_length: int | None = None
        horizon: int | None = None
        grid: Literal["press"] | None = None
        max_bias: float | None = None
        max_sequence_length: int | None = None
        verify: bool = True

    class Eval(BaseModel):
        model_config = ConfigDict(extra="forbid")
        lengths: str = "512,1024,2048"
        arms: str | None = None
        protocol: Literal["fixed-target", "non-overlapping", "sliding"] = "fixed-target"
        targets: int | None = None
        stride: int | None = None
        dataset: str | None = None
        text_column: str = "text"
        max_segments: int | None = None
        max_documents: int | None = None
        batch_size: int | None = None
        device: str = "auto"
        dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"

    class Train(BaseModel):
        model_config = ConfigDict(extra="forbid")
        tokens: int | None = None
        steps: int | None = None
        dataset: str | None = None
        text_column: str = "text"
        batch_tokens: int | None = None
        length: int | None = None
        length_schedule: str | None = None
        train_sequence_length_scaling: float = 1.0
        teacher: str | None = None
        kd_weight: float = 0.9
        temperature: float = 1.0
        hidden_weight: float = 0.0
        train_slopes: bool = False
        learning_rate: float = 1e-3
        warmup: float = 0.1
        decay: Literal["cosine", "linear", "constant"] = "cosine"
        weight_decay: float = 0.0
        max_gradient_norm: float = 1.0
        seed: int = 0
        dtype: Literal["float32", "bfloat16"] = "float32"
        gradient_checkpointing: bool = False
        save_every: int = 100

    schemas: dict[str, type[BaseModel]] = {"convert": Convert, "eval": Eval, "train": Train}
    try:
        content = yaml.safe_load(text)
        if not isinstance(content, dict) or set(content) != {"command", "description", "settings"}:
            raise AlibiError(
                f"{where} must have the keys command, description and settings, and no other.", exit_code=EXIT_USAGE
            )
        if not isinstance(content["command"], str) or content["command"] not in schemas:
            raise AlibiError(
                f"{where}: command is convert, eval or train, not {content['command']!r}.", exit_code=EXIT_USAGE
            )
        settings = schemas[content["command"]].model_validate(content["settings"]).model_dump(exclude_unset=True)
    except (yaml.YAMLError, RecursionError) as error:
        raise AlibiError(f"{where} is not YAML: {' '.join(str(error).split())}", exit_code=EXIT_USAGE) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        close = difflib.get_close_matches(key, schemas[content["command"]].model_fields, n=1)
        raise AlibiError(
            f"{where}: {key}: {first['msg']}.",
            f"Did you mean {close[0]}?" if close and close[0] != key else None,
            EXIT_USAGE,
        ) from None
    return content["command"], str(content["description"]), settings
