"""A chart as data for Plotly.js."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chart:
    """title: above it. says: what it shows, for those who do not see it. data, layout: Plotly's. width: "whole" page, or "part" of it."""

    title: str
    says: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    width: str = "whole"
