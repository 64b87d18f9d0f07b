"""The HTML report in a real browser: what is seen, what is asked of the network, keys, paper."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.html_report.page import page as made_page
from reference.report_pages import HOSTILE, category, hostile

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium for all of this file."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        # Root may not use Chromium's sandbox, and containers have a small /dev/shm.
        sandbox = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(fitted, category_name, tmp_path_factory) -> dict[str, Path]:
    """Pages as files: a usual one of two categories, and one of hostile names."""
    folder, model = tmp_path_factory.mktemp("pages"), fitted / category_name
    written = {}
    for name, reports in (
        ("usual", [category(model, "first"), category(model, "second")]),
        ("hostile", [hostile(model)]),
    ):
        written[name] = folder / f"{name}.html"
        written[name].write_text(made_page(reports), encoding="utf-8")
    return written


class _Opened:
    """A page in a window of its own; what it says or asks of the network is kept."""

    def __init__(self, browser, path: Path, **settings) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())

    @property
    def others(self) -> list[str]:
        """Requests for anything but the page and what it holds."""
        return [url for url in self.asked if not url.startswith(("file:", "data:"))]

    def shown(self) -> list[str]:
        """Numbers of the images that are shown, in order."""
        return self.page.eval_on_selector_all(
            ".item:not([hidden])", "items => items.map(item => item.dataset.number)"
        )

    def wait_until(self, expression: str) -> None:
        """Playwright's own way evaluates text inside of the page, which its policy forbids."""
        end = time.monotonic() + 10
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)

    def pixels(self, selector: str) -> np.ndarray:
        """What is seen of an element, (H, W, 3) uint8."""
        picture = self.page.locator(selector).first.screenshot()
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@pytest.fixture
def opened(browser, pages) -> Iterator:
    """Opens pages; all of them must have been silent and must have asked for nothing."""
    every: list[_Opened] = []

    def open_page(name: str = "usual", **settings) -> _Opened:
        every.append(_Opened(browser, pages[name], **settings))
        return every[-1]

    yield open_page
    for one in every:
        said, others = one.said, one.others
        one.context.close()
        assert said == [] and others == []


def test_it_opens_silently_and_shows_the_worst_first(opened):
    one = opened()
    assert one.page.title() == "Inspection report"
    assert one.shown() == [str(number) for number in range(12)]
    assert one.page.text_content("#status") == "12 of 12 images"
    words = [text.split()[0] for text in one.page.locator(".item .badge").all_text_contents()]
    # Of either category a miss (0.6) and a false alarm (1.3), then the four right ones.
    assert words[:4] == ["missed", "missed", "false", "false"]
    assert set(words[4:]) == {"found", "passed"}
    # Pictures far below are not decoded before they come into sight.
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert not one.page.evaluate(loaded)
    one.page.locator("#images").scroll_into_view_if_needed()
    one.wait_until(loaded)


def test_it_sorts_filters_and_finds(opened):
    one = opened()

    def scores() -> list[float]:
        texts = one.page.locator(".item:visible .facts .number").all_text_contents()
        return [float(text) for text in texts]

    one.page.select_option("#sort", "high")
    assert scores() == sorted(scores(), reverse=True) and len(scores()) == 12
    one.page.select_option("#sort", "low")
    assert scores() == sorted(scores())
    one.page.select_option("#sort", "name")
    names = one.page.locator(".item:visible .name").all_text_contents()
    assert names == [f"{number:03}.png" for number in (3, 3, 4, 4, 0, 0, 1, 1, 2, 2, 5, 5)]
    one.page.click("#controls [data-verdict=missed]")
    assert len(one.shown()) == 2 and one.page.text_content("#status") == "2 of 12 images"
    pressed = one.page.locator("#controls [data-verdict][aria-pressed=true]").all_text_contents()
    assert [text.split()[0] for text in pressed] == ["Missed"]
    one.page.select_option("#category", "second")
    assert len(one.shown()) == 1
    one.page.select_option("#defect", "scratch")
    assert one.shown() == [] and one.page.locator("#none").is_visible()
    one.page.click("#controls [data-verdict='']")
    assert len(one.shown()) == 1
    one.page.select_option("#category", "")
    one.page.select_option("#defect", "")
    one.page.fill("#search", "DENT/00")
    assert len(one.shown()) == 4


def test_heat_map_and_ground_truth_are_seen_and_can_be_taken_off(opened):
    one = opened()
    tile = ".item:not([hidden]) .layers"
    both = one.pixels(tile).astype(int)
    heat, truth = (one.page.locator(f"#controls [data-layer={key}]") for key in ("heat", "truth"))
    heat.click()
    assert heat.get_attribute("aria-pressed") == "false"
    outlined = one.pixels(tile).astype(int)
    truth.click()
    bare = one.pixels(tile).astype(int)
    heat.click()
    warm = one.pixels(tile).astype(int)

    def sky(picture: np.ndarray) -> int:
        return int((abs(picture - (86, 180, 233)).max(axis=2) < 12).sum())

    assert sky(both) > 30 and sky(outlined) > 30 and sky(bare) == sky(warm) == 0
    # The photograph is blue; below a heat map it is grey, and pale yellow where it is hot.
    middle = slice(bare.shape[0] // 3, 2 * bare.shape[0] // 3)
    assert (bare[middle, ..., 2] > bare[middle, ..., 0] + 60).mean() > 0.9
    assert ((warm[..., 0] > 180) & (warm[..., 2] < warm[..., 0] - 20)).sum() > 50
    cold = warm[warm.shape[0] * 3 // 5, warm.shape[1] * 4 // 5]
    assert cold.max() - cold.min() < 30


def test_all_of_it_can_be_done_from_the_keyboard(opened):
    one = opened()
    keyboard, page = one.page.keyboard, one.page
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.locator("#controls [data-verdict=missed]").focus()
    keyboard.press("Enter")
    assert len(one.shown()) == 2
    page.locator(".item:not([hidden]) .open").first.focus()
    keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    first = page.text_content("#viewer-name")
    assert page.text_content("#viewer-place") == "1 of 2" and page.locator("#before").is_disabled()
    assert "p = 0.25 among good images" in page.inner_text("#viewer-caption")
    keyboard.press("ArrowRight")
    assert page.text_content("#viewer-place") == "2 of 2"
    keyboard.press("ArrowRight")  # there is no more
    assert page.text_content("#viewer-place") == "2 of 2"
    keyboard.press("h")
    pressed = page.locator("[data-layer=heat]").evaluate_all(
        "buttons => buttons.map(button => button.getAttribute('aria-pressed'))"
    )
    assert pressed == ["false", "false"]
    inside = []
    for _ in range(12):
        keyboard.press("Tab")
        inside.append(
            page.evaluate(
                "document.activeElement === document.body ||"
                "!!document.activeElement.closest('#viewer')"
            )
        )
    assert all(inside)
    keyboard.press("ArrowLeft")
    assert page.text_content("#viewer-name") == first
    keyboard.press("ArrowRight")
    keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    where = page.evaluate("document.activeElement.closest('.item').dataset.number")
    assert where == one.shown()[1]
    page.locator("details summary").first.focus()
    keyboard.press("Enter")
    assert page.locator("dl.reading").is_visible()


def test_buttons_and_pictures_have_names(opened):
    one = opened()
    nameless = one.page.evaluate(
        "[...document.querySelectorAll('button, a, select, input, summary')].filter(e =>"
        "!(e.textContent.trim() || e.getAttribute('aria-label') || e.querySelector('img[alt]') ||"
        "e.labels?.length)).length"
    )
    assert nameless == 0
    assert one.page.evaluate("[...document.images].every(image => image.hasAttribute('alt'))")
    plots = one.page.locator("svg[role=img]")
    assert plots.count() == 4  # ROC, precision and recall, and two histograms
    assert "Areas: first 0.667" in plots.first.get_attribute("aria-label")
    ids = one.page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["usual", "hostile"])
def test_nothing_is_wider_than_a_phone(opened, name):
    one = opened(name, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    wide = "document.documentElement.scrollWidth"
    assert one.page.evaluate(wide) <= 360
    for fold in one.page.locator("details").all():
        fold.evaluate("one => { one.open = true; }")
    assert one.page.evaluate(wide) <= 360
    one.page.locator(".open").first.tap()
    box = one.page.locator("#viewer").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    close = one.page.locator("#close").bounding_box()
    assert min(close["width"], close["height"]) >= 36


def test_hostile_names_are_only_names(opened):
    one = opened("hostile")
    assert one.page.evaluate("window.broken") is None
    assert len(one.shown()) == len(HOSTILE)
    shown = set(one.page.eval_on_selector_all(".item", "all => all.map(i => i.dataset.name)"))
    assert HOSTILE[0] in shown and HOSTILE[1] in shown
    one.page.select_option("#defect", HOSTILE[1])
    assert len(one.shown()) == 1
    one.page.select_option("#defect", "")
    one.page.fill("#search", "</script>")
    assert len(one.shown()) == 1
    one.page.locator(".item:not([hidden]) .open").click()
    assert one.page.text_content("#viewer-name") == HOSTILE[0]
    assert one.page.evaluate("window.broken") is None


def test_the_policy_stops_what_gets_in(browser, pages):
    one = _Opened(browser, pages["usual"])
    failed = []
    one.page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    one.page.evaluate(
        "() => { const a = document.createElement('img'); a.src = 'https://example.org/a.png';"
        "document.body.append(a); const b = document.createElement('div');"
        "for (const does of [() => b.setAttribute('onclick', 'window.broken = 1'),"
        "() => { b.innerHTML = '<img src=x onerror=window.broken=2>'; }])"
        "try { does(); } catch (error) { window.refused = (window.refused || 0) + 1; }"
        "document.body.append(b); b.click(); }"
    )
    one.wait_until("document.images[document.images.length - 1].complete")
    broken, refused = one.page.evaluate("[window.broken, window.refused]")
    said = list(one.said)
    one.context.close()
    assert failed == [("https://example.org/a.png", "csp")] and broken is None and refused == 2
    assert any("Content Security Policy" in text for text in said)


def test_without_javascript_results_and_pictures_are_there(opened):
    one = opened(java_script_enabled=False)
    assert not one.page.locator("#controls").is_visible()
    assert one.page.locator("#summary table").is_visible()
    assert one.page.locator("svg.plot").first.is_visible()
    assert one.page.locator(".item").count() == 12 and one.page.locator(".heat").first.is_visible()


def test_paper_has_everything_but_the_controls(opened):
    one = opened()
    one.page.emulate_media(media="print", color_scheme="dark")
    assert not one.page.locator("nav").is_visible()
    assert not one.page.locator("#controls").is_visible()
    assert one.page.locator("figure svg.plot").first.is_visible()
    assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    one.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert one.page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    one.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert one.page.evaluate("[...document.querySelectorAll('details')].every(d => !d.open)")
    pdf = one.page.pdf(format="A4")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 2
    assert pdf.count(b"/Subtype /Image") >= 8  # six photographs, which are in it once each


def test_themes_follow_the_reader(opened):
    colours = {}
    for scheme in ("light", "dark"):
        one = opened(color_scheme=scheme)
        values = one.page.evaluate(
            "['body', '.note', '.badge.missed', '.curve'].map(name => { const s ="
            "getComputedStyle(document.querySelector(name)); return [s.color, s.stroke]; })"
        )
        ground = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
        colours[scheme] = (ground, values)
        for colour, _ in values[:3]:
            assert _contrast(colour, ground) >= 4.5, (scheme, colour, ground)
    assert colours["light"] != colours["dark"]
    still = opened(reduced_motion="reduce")
    assert still.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == (
        "auto"
    )


def test_forced_colours_and_grey_keep_verdicts_and_lines_apart(opened):
    one = opened(forced_colors="active")
    assert one.page.locator(".item .badge").first.is_visible()
    line, ground = one.page.evaluate(
        "[getComputedStyle(document.querySelector('.curve')).stroke,"
        "getComputedStyle(document.body).backgroundColor]"
    )
    assert _contrast(line, ground) >= 4.5
    dashes = one.page.eval_on_selector_all(
        ".plot .curve", "all => all.map(one => getComputedStyle(one).strokeDasharray)"
    )
    assert dashes[0] != dashes[1]  # two categories, told apart without their colours
    bars = one.page.eval_on_selector_all(
        ".plot .bars", "all => all.map(one => getComputedStyle(one).strokeDasharray)"
    )
    assert bars[0] != bars[1]
    shapes = {
        one.page.locator(f".badge.{kind} use").first.get_attribute("href")
        for kind in ("missed", "false-alarm", "found")
    }
    assert len(shapes) == 3


def _contrast(first: str, second: str) -> float:
    """Contrast of two CSS colours `rgb(r, g, b)`. Source: WCAG 2.2, relative luminance."""

    def luminance(text: str) -> float:
        parts = [int(part) / 255 for part in text.strip("rgba()").split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)
