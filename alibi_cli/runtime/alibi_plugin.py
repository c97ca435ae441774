"""A family that this package does not know: in a checkpoint that was converted by way of a plug-in, its source is in place of this file.

Here, `MODULES` holds the plug-ins that were loaded into this process.
"""

from typing import Any

MODULES: list[Any] = []
