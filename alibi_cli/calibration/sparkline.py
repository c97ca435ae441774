"""The last values of a loss, in a line of text."""

from collections import deque


class Sparkline:
    """The last values as a row of blocks, the newest at its end."""

    BLOCKS = "▁▂▃▄▅▆▇█"

    def __init__(self, width: int = 24):
        self.values: deque[float] = deque(maxlen=width)

    def add(self, value: float) -> str:
        self.values.append(value)
        low, high = min(self.values), max(self.values)
        span = (high - low) or 1.0
        return "".join(self.BLOCKS[min(7, int(8 * (v - low) / span))] for v in self.values)
