"""One run at a time on one output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from alibi_cli.errors import AlibiError, explained


@contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Holds DIR.partial.lock, which the kernel releases when the process ends, however it ends.

    Raises:
        AlibiError: another run holds it, or the folder around DIR cannot be written to.
    """
    lock = FileLock(output.with_name(f"{output.name}.partial.lock"))
    with explained(f"Cannot write to {output.parent}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise AlibiError(
                f"Another run is writing {output}.", hint="Wait for it, or choose another output."
            ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: a run that waits on it tries again
        lock.release()
