"""The page about a run in a real browser: it opens in silence, answers, and fetches nothing."""

import shutil

import numpy as np
import pytest

from ddpm_jax.figures import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
INK = "canvas => canvas.toDataURL()"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the system's package of that name")
    with sync_api.sync_playwright() as playwright:
        # As root, as in a container, Chromium starts only without its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


COMMAND = (
    "ddpm-jax train --data points.csv --out runs/points --num-steps 500 --seed 0 --ema-decay 0"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    data, samples, noise = rng.normal(size=(3, 400, 3))
    frames = [data + left * noise for left in (3, 2, 1, 0)]
    curve = np.arange(1.0, 50.0), 1 / np.arange(1.0, 50.0)
    text = report.page(
        "a run",
        data,
        samples,
        command=COMMAND,
        frames=frames,
        left=[3, 2, 1, 0],
        losses={"training": curve, "held out": curve},
        floor=0.1,
        table=report.Table(["metric", "samples"], [["total_variation", "0.1"]]),
    )
    path = tmp_path_factory.mktemp("run") / "report.html"
    path.write_text(text)
    return path


@pytest.fixture
def opened(browser, path):
    """The page, opened from its file by a reader of the given habits; quiet until the end."""
    contexts, heard = [], []

    def open_page(**habits):
        context = browser.new_context(**{"reduced_motion": "reduce"} | habits)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == [path.as_uri()] * len(contexts)


def test_the_slider_moves_the_picture(opened):
    page = opened()
    movie, slider, shown = (page.locator(f"#{name}") for name in ("movie", "time", "shown"))
    assert shown.inner_text() == "result"
    result = movie.evaluate(INK)
    slider.focus()
    slider.press("Home")
    assert shown.inner_text() == "3 steps left"
    noise = movie.evaluate(INK)
    assert noise != result
    slider.press("End")
    assert movie.evaluate(INK) == result
    slider.fill("2.5")  # between two frames
    assert movie.evaluate(INK) not in (noise, result)


def test_it_plays_by_itself_until_it_is_paused(opened):
    page = opened(reduced_motion="no-preference")
    movie, shown = page.locator("#movie"), page.locator("#shown")
    page.locator("#shown", has_text="2 steps left").wait_for()
    page.locator("#play", has_text="Pause").click()
    before = movie.evaluate(INK), shown.inner_text()
    page.wait_for_timeout(100)
    assert (movie.evaluate(INK), shown.inner_text()) == before


def test_keys_zoom_both_pictures_and_zero_shows_all(opened):
    page = opened()
    data, samples = page.locator("#pane-data"), page.locator("#pane-samples")
    before = data.evaluate(INK), samples.evaluate(INK)
    whole = page.locator("#view").inner_text()
    data.focus()
    page.keyboard.press("+")
    after = data.evaluate(INK), samples.evaluate(INK)
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert page.locator("#view").inner_text() != whole
    page.keyboard.press("0")
    assert (data.evaluate(INK), samples.evaluate(INK)) == before


def test_other_columns_can_be_chosen(opened):
    page = opened()
    before = page.locator("#pane-data").evaluate(INK)
    page.get_by_label("up").select_option("2")
    assert page.locator("#pane-data").evaluate(INK) != before
    assert "x3" in page.locator("#view").inner_text()


def test_everything_is_reached_by_the_tab_key(opened):
    page = opened()
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    controls = {"play", "time", "pane-data", "pane-samples", "nearer", "farther", "whole"}
    assert controls | {"across", "up", "command", "copy"} <= reached


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_the_screen(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", range(320, 440, 20))
def test_the_command_breaks_between_its_words_and_is_copied_as_it_is(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    command = page.locator("#command")
    words = command.locator("span").all()
    assert [word.inner_text() for word in words] == COMMAND.split(" ")
    heights = {word.bounding_box()["height"] for word in words}
    assert len(heights) == 1
    assert command.bounding_box()["height"] > 2 * heights.pop()
    command.evaluate("element => getSelection().selectAllChildren(element)")
    assert page.evaluate("getSelection().toString()") == COMMAND


def test_the_dark_theme_is_dark(opened):
    color = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(color_scheme=scheme).evaluate(color) for scheme in ("light", "dark"))
    brightness = [
        sum(map(int, c.removeprefix("rgb(").removesuffix(")").split(","))) for c in (light, dark)
    ]
    assert brightness[0] > 600
    assert brightness[1] < 150
