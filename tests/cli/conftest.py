"""What files of tests about conversions share: models, a text, and calibrations that take no time."""

from pathlib import Path

import pytest

from alibi_cli.calibration import added, divergence, feed
from alibi_cli.calibration import calibrate as run
from tests.calibration.kill_calibrations import TEXT
from tests.models import save_tiny


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models by family, made when they are first asked for."""
    folder = tmp_path_factory.mktemp("sources")

    class Made(dict):
        def __missing__(self, family: str) -> Path:
            self[family] = save_tiny(family, folder / family)
            return self[family]

    return Made()


@pytest.fixture
def text(tmp_path: Path) -> tuple[str, ...]:
    paths = [tmp_path / f"{name}.txt" for name, _ in TEXT.documents]
    for path, (_, content) in zip(paths, TEXT.documents, strict=True):
        path.write_text(content)
    return tuple(word for path in paths for word in ("--calibration-text", str(path)))


@pytest.fixture
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(feed.TOKENS, "reach", 600)
    monkeypatch.setattr(feed, "ADDED_TOKENS", 2500)
    monkeypatch.setattr(run, "HELD_OUT_TOKENS", 300)
    for module in (added, divergence):
        monkeypatch.setattr(module, "TOKENS_PER_BATCH", 256)
