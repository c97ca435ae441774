"""What each head of a model does: the JSON of `alibi inspect heads`, and its maps."""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from alibi_cli.names import short_names, short_text

Map = list[list[float]]  # one list a layer, one figure a head
# Field of the report: title of the map, what the heads with the smallest and the largest figures are, whether its colours are logarithmic.
MAPS: dict[str, tuple[str, str, str, bool]] = {
    "mean_distance": ("distance, tokens", "most local", "farthest", True),
    "mean_distance_without_sinks": ("distance, no sinks", "most local", "farthest", True),
    "sink_weight": ("weight on the sinks", "least", "most", False),
    "first_token_weight": ("weight on first token", "least", "most", False),
    "entropy_nats": ("entropy, nats", "sharpest", "most diffuse", False),
    "slopes": ("slope m", "gentlest", "steepest", True),
}


class HeadMap(NamedTuple):
    """A figure of every head, and how to show it; see `MAPS`."""

    title: str
    values: list[list[float | None]]
    lowest: str
    highest: str
    logarithmic: bool


class HeadReport(BaseModel):
    """The JSON of `alibi inspect heads`. tokens: that were read, in windows of `window`. text: its fingerprint. slopes: null for an
    original.

    mean_distance: tokens that a head looks back; mean_distance_without_sinks: over keys that are no sinks, null for a head that sees no
    other. entropy_nats: of the attention weights. first_token_weight, sink_weight: weight on the first token of a window, and on its first
    `sinks` tokens."""

    model: str
    converted: bool
    trained_length: int | None
    window: int
    tokens: int
    text: dict[str, Any]
    slopes: Map | None
    sinks: int
    mean_distance: Map
    mean_distance_without_sinks: list[list[float | None]]
    entropy_nats: Map
    first_token_weight: Map
    sink_weight: Map

    @property
    def title(self) -> str:
        """Which model, and what it read."""
        name, window, trained = short_names([self.model])[self.model], self.window, self.trained_length
        read = f"{name}: {self.tokens:,} tokens of {short_text(self.text['name'])} in windows of {window:,}"
        return read if trained in (None, window) else f"{read} (trained length {trained:,})"

    def plot(self, path: str | Path) -> None:
        """Writes the maps as one picture: PNG, SVG or PDF by the ending of `path`.

        Raises:
            AlibiError: the file cannot be written, or its ending is not that of a picture.
        """
        from alibi_cli.plots.heads_plot import draw

        draw(Path(path), self.title, [(each.title, each.values, each.logarithmic) for each in self.maps()])

    def maps(self) -> list[HeadMap]:
        """Those that say something: without sinks there is nothing to tell apart, and the first token is one of the sinks."""
        left_out = {"first_token_weight"} if self.sinks else {"mean_distance_without_sinks", "sink_weight"}
        return [
            HeadMap(title, getattr(self, key), lowest, highest, logarithmic)
            for key, (title, lowest, highest, logarithmic) in MAPS.items()
            if key not in left_out and getattr(self, key) is not None
        ]
