"""What arms are called in results; docs/arms.md defines them. What they do is in arms.py."""

FULL = "full"  # what rows of the model itself are called where others name their arm
TRUNCATED, WINDOW, WINDOW_AND_SINKS, STREAMING = "truncated", "window", "window+sinks", "streaming"
WINDOWS = (WINDOW, WINDOW_AND_SINKS, STREAMING)  # each of them also with a size, NAME:N
ROTATIONS = ("linear", "dynamic", "yarn")
ARMS = (TRUNCATED, *WINDOWS, *ROTATIONS)
