"""What the config of a model says of its rotation."""

from typing import Any

# Frequencies that depend on the length of the text: at another length, a rotation of these kinds is another one.
OF_LENGTH = ("dynamic", "longrope")


def rotations_of(config: Any) -> list[dict[str, Any]]:
    """The parameters of every rotation: one, or one for each type of layer; none where there is no rotation."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or ([parameters] if parameters else [])


def depends_on_length(config: Any) -> str | None:
    """The first of its kinds of rotation that is in OF_LENGTH."""
    return next((kind for each in rotations_of(config) if (kind := each.get("rope_type")) in OF_LENGTH), None)


def rotation_reads_length(config: Any) -> bool:
    """True if a rotation that is kept would change with the maximum length: that of dynamic NTK, YaRN and LongRoPE may, and that of Llama 3
    if the config names no original length, for which transformers then takes the maximum."""
    for kind in rotations_of(config):
        original, name = kind.get("original_max_position_embeddings"), kind.get("rope_type", "default")
        if name not in ("default", "linear", "proportional", "llama3"):
            return True
        if name == "llama3" and original in (None, config.max_position_embeddings):
            return True
    return False
