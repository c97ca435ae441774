"""How much the tests that try many cases try: a bounded sample in `make test`, all of it in `make fuzz`."""

import os
from collections import Counter

THOROUGH = os.environ.get("ALIBI_FUZZ") == "1"
ran: Counter[str] = Counter()  # cases by name, shown at the end of the run


def cases(sample: int, thorough: int) -> int:
    return thorough if THOROUGH else sample
