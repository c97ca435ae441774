"""What arms are called in results; docs/arms.md defines them. What they do is in arms.py."""

FULL = "full"  # what rows of the model itself are called where others name their arm
TRUNCATED, WINDOW, WINDOW_AND_SINKS = "truncated", "window", "window+sinks"
ROTATIONS = ("linear", "dynamic", "yarn")
ARMS = (TRUNCATED, WINDOW, WINDOW_AND_SINKS, *ROTATIONS)
