"""Our own progress and messages replace those of the libraries: while a verb works, and for a whole command."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Meanwhile no load reports, progress bars and retries of the libraries that are loaded already; errors are kept."""
    if "transformers" not in sys.modules:
        yield
        return
    with warnings.catch_warnings():
        as_before = silence_libraries()
        try:
            yield
        finally:
            as_before()


def silence_libraries() -> Callable[[], None]:
    """The same from now on; returns what undoes it, warnings apart."""
    from huggingface_hub.utils import logging as of_hub
    from transformers.utils import logging as of_transformers

    shown, accelerate = of_transformers.is_progress_bar_enabled(), logging.getLogger("accelerate")
    levels = (of_hub.get_verbosity(), of_transformers.get_verbosity(), accelerate.level)
    warnings.filterwarnings("ignore", module="transformers")
    of_hub.set_verbosity_error()
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    accelerate.setLevel(logging.ERROR)

    def as_before() -> None:
        of_hub.set_verbosity(levels[0])
        of_transformers.set_verbosity(levels[1])
        accelerate.setLevel(levels[2])
        if shown:
            of_transformers.enable_progress_bar()

    return as_before
