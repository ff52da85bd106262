import functools
import http.server
import threading
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PAGES = ["", "generated/papers/plaster-cast/", "generated/papers/tide-charts/", "generated/leaderboard/", "protocol/"]
PAGES += ["generated/matrix/", "generated/combinations/"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def tab(browser, request):
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.troubles = []
    page.on("console", lambda said: page.troubles.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda asked: page.troubles.append(asked.url) if "127.0.0.1" not in asked.url else None)
    yield page
    context.close()


@pytest.mark.parametrize("tab", [(1280, "light"), (390, "light"), (390, "dark")], indirect=True)
@pytest.mark.parametrize("path", PAGES)
def test_pages_open_without_errors_outside_requests_or_sideways_scrolling(tab, address, path):
    tab.goto(address + path)
    tab.wait_for_load_state("networkidle")
    assert tab.troubles == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]


@pytest.mark.parametrize("tab", [(390, "light"), (390, "dark")], indirect=True)
def test_one_chart_of_each_pair_is_shown_and_loaded(tab, address):
    tab.goto(address + "generated/papers/plaster-cast/")
    figures = tab.locator("figure.chart")
    assert figures.count() > 0
    for place in range(figures.count()):
        shown = figures.nth(place).locator("img:visible")
        assert shown.count() == 1
        shown.scroll_into_view_if_needed()
        tab.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=shown.element_handle())


@pytest.mark.parametrize("tab", [(390, "light")], indirect=True)
def test_wide_tables_scroll_by_keyboard_inside_their_box(tab, address):
    tab.goto(address + "generated/leaderboard/")
    box = tab.locator(".scroll").first
    box.focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())


def test_search_finds_a_paper(tab, address):
    tab.goto(address)
    tab.keyboard.press("/")
    tab.locator(".md-search__input").press_sequentially("PlasterCast")
    found = tab.locator(".md-search-result__link", has_text="PlasterCast").first
    found.wait_for()
    assert "papers/plaster-cast/" in found.get_attribute("href")
    assert tab.troubles == []
