"""The last values of a loss, in a line of text."""


class Sparkline:
    """The last values as a row of blocks."""

    BLOCKS = "▁▂▃▄▅▆▇█"

    def __init__(self, width: int = 24):
        self.values: list[float] = []
        self.width = width

    def add(self, value: float) -> str:
        self.values.append(value)
        every = max(1, len(self.values) // self.width)
        shown = self.values[::every][-self.width :]
        low, high = min(shown), max(shown)
        span = (high - low) or 1.0
        return "".join(self.BLOCKS[min(7, int(8 * (v - low) / span))] for v in shown)
