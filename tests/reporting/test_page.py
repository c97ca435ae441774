"""The page, and what a real browser makes of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import alibi_cli as alibi
from alibi_cli.evaluation.tasks.task_results import TaskFacts, TaskModel, TaskResults, TaskRow
from tests.browser import Page, chromium, needs_chromium
from tests.cli.run import alibi_inside
from tests.models import save_tiny
from tests.reporting.helpers import BASE, flat, results_of

HOSTILE = '</script><img src="https://example.org/x.png" onerror="window.hacked = 1">'


def task() -> TaskResults:
    rows = [
        TaskRow(model="m", length=length, depth=depth, status="ok", accuracy=0.5, ci95=(0.2, 0.8), correct=4, samples=8,
                chance=0.1, tokens=length, seconds=1.0, outcomes=[])
        for length in (256, 512)
        for depth in (None, 0.0, 1.0)
    ]  # fmt: skip
    facts = dict(name="passkey", lengths=[256, 512], depths=[0.0, 1.0], samples=8, seed=0, chance=0.1, attention=None)
    model = TaskModel(name="m", model_type="llama", commit=None, digest="d", converted=True, trained_length=None)
    return TaskResults(
        command="alibi task",
        versions={},
        task=TaskFacts(device="cpu", dtype="auto", **facts),
        models=[model],
        rows=rows,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of everything that a page can show: two sections, a task, slopes, heads, the curve of a calibration."""
    folder = tmp_path_factory.mktemp("page")
    text = folder / "t.txt"
    text.write_text("the bias of a head falls with distance " * 60)
    source = save_tiny("llama", folder / "source")
    converted = folder / "converted"
    calibration = {"slopes": "calibrated", "calibrate": "distil", "calibration_tokens": 800}
    alibi.convert(source, converted, verify=False, calibration_text=[text], **calibration)
    heads = alibi.inspect_heads(converted, text=[text], tokens=48, length=16)
    runs = [results_of({"base": BASE, "build/kept": flat(10.2), HOSTILE: flat(700)}, "base")]
    runs += [results_of({"build/other": flat(9)}, text="books")]
    alibi.report([*runs, task(), heads, converted], output=folder / "report.html", command="alibi report …")
    return folder / "report.html"


def test_a_page_is_one_file_that_names_no_other(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert len(html.encode()) < 5_000_000
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"""<\w[^>]*\s(src|href)=(?!["']?data:)""", own) and "<img" not in own
    assert set(re.findall(r"""https?:[^ &"\\]*""", own)) == {"https://example.org/x.png"}  # the hostile name, as text
    for part in ("Perplexity by length", "NLL by position", "Paired differences", "Task passkey", "Slopes"):
        assert f">{part}<" in html
    for part in ("What the heads do", "Calibration and training", "To repeat it", "of another text, books"):
        assert part in html
    for figures in re.findall(r'<script type="application/json">(.*?)</script>', html, flags=re.DOTALL):
        assert json.loads(figures)["data"]


def test_a_page_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    run = results_of({"m": flat(9)})
    for _ in range(2):
        alibi.report(run, output=tmp_path / "r.html")
    (tmp_path / "r.html").write_text("<h1>mine</h1>")
    with pytest.raises(alibi.UsageError, match="exists and is no report"):
        alibi.report(run, output=tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "<h1>mine</h1>"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no file"),
        ("{}", "holds nothing that a report shows"),
        ('{"task": {}}', "is not what it seems"),
        ("[", "not JSON"),
    ],
)
def test_what_is_no_result_is_named(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    result = alibi_inside("report", tmp_path / "x.json", code=None)
    assert says in result.stderr and "x.json" in result.stderr and result.returncode in (1, 2)
    assert "must end in .html" in alibi_inside("report", "x.json", "-o", "x.txt", code=2).stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser: Page, page: Path) -> Page:
    browser.open(page)
    browser.wait("document.documentElement.classList.contains('drawn')")
    return browser


@needs_chromium
def test_a_browser_draws_every_chart_says_nothing_and_asks_for_nothing(opened: Page) -> None:
    assert opened.complaints() == []
    assert all(url.startswith("file:") for url in opened.requests()) and len(opened.requests()) == 1
    charts = opened.js("document.querySelectorAll('.chart').length")
    assert charts >= 12 and opened.js("document.querySelectorAll('.chart .main-svg').length") >= charts
    assert (
        opened.js("document.querySelector('.chart').querySelectorAll('.trace').length") == 5
    )  # three models, two arms
    assert opened.js("window.hacked") is None and opened.js("document.images.length") == 0
    buttons = opened.js("[...new Set([...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title))].join()")
    assert "Zoom" in buttons and "loud" not in buttons and "lotly" not in buttons


@needs_chromium
def test_keys_read_the_figures_and_zoom(opened: Page) -> None:
    opened.js("document.querySelector('.chart').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        opened.press(key)
    assert opened.js("document.querySelector('.says').textContent").startswith("base:truncated, at 1,024: ")
    opened.wait("document.querySelector('.hoverlayer').textContent.startsWith('base:truncated')")
    span = "(([a, b]) => b - a)(document.querySelector('.chart')._fullLayout.xaxis.range)"
    whole = opened.js(span)
    opened.press("+")
    assert opened.js(span) == pytest.approx(whole / 1.5)
    opened.press("0")
    opened.press("Escape")
    assert opened.js(span) == pytest.approx(whole) and opened.js("document.querySelector('.says').textContent") == ""
    opened.js("[...document.querySelectorAll('.chart')].find(c => c._fullData[0].type === 'heatmap').focus()")
    opened.press("ArrowRight")
    assert opened.js("document.activeElement.parentElement.querySelector('.says').textContent") == "0.00, 256: 50%"
    assert opened.complaints() == []


@needs_chromium
def test_it_fits_a_telephone_and_goes_dark(opened: Page) -> None:
    first = "document.querySelector('.chart .lines path').style.stroke"
    light = opened.js(first)
    opened.media("dark")
    opened.wait(f"{first} !== '{light}'")
    opened.media("light")
    opened.wait(f"{first} === '{light}'")
    for width in (390, 1280):
        opened.size(width)
        opened.wait(f"document.querySelector('.chart')._fullLayout.width <= {width}")
        assert opened.js("document.documentElement.scrollWidth") <= width
    assert opened.complaints() == []


@needs_chromium
def test_it_prints_in_light_colours_with_its_tables_open(opened: Page, tmp_path: Path) -> None:
    opened.media("dark")
    opened.js("addEventListener('afterprint', () => { window.printed = document.querySelectorAll('details').length })")
    opened.js(
        "addEventListener('beforeprint', () => { window.during = [document.querySelectorAll('details:not([open])').length, "
        "getComputedStyle(document.body).backgroundColor] })"
    )
    opened.pdf(tmp_path / "report.pdf")
    assert opened.js("window.during") == [0, "rgb(255, 255, 255)"] and opened.js("window.printed") > 0
    assert opened.js("document.querySelectorAll('details[open]').length") == 0  # as it was
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    opened.media("light")


@needs_chromium
def test_the_browser_would_tell(browser: Page, page: Path, tmp_path: Path) -> None:
    """The control: of a page that asks the network and whose script fails; and the policy stops what was smuggled in. It leaves the
    page, so it is the last."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('told'); undefined.x</script>")
    browser.events.clear()
    browser.open(bad)
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    assert any("told" in line for line in browser.complaints()) and len(browser.complaints()) >= 2
    smuggled = page.read_text(encoding="utf-8").replace("<h1>", "<script>window.hacked = 1</script><h1>")
    bad.write_text(smuggled, encoding="utf-8")
    browser.events.clear()
    browser.open(bad)
    assert browser.js("window.hacked") is None and any(
        "Content Security Policy" in line for line in browser.complaints()
    )
