"""Numbers in a config.json that no model has."""

from typing import Any

from alibi_cli.errors import AlibiError

MOST = 100_000  # layers, heads, experts or labels


def check_plausible(raw: dict[str, Any], where: str) -> None:
    """transformers makes so many modules or names, one after the other, before it looks at any weight.

    Raises:
        AlibiError: a config asks for more than any model has.
    """
    for key, value in raw.items():
        counted = "layer" in key or "expert" in key or "head" in key or key == "num_labels"
        if counted and isinstance(value, (int, float)) and not value <= MOST:
            raise AlibiError(f"The config.json of {where} has {key} = {value}, which no model has.")
