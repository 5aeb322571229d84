"""Every page of the built book, opened in a headless browser from a local server."""

import shutil
import threading
from functools import cache
from html.parser import HTMLParser
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.browser

HTML = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(
    page.relative_to(HTML).as_posix()
    for page in HTML.rglob("*.html")
    if page.relative_to(HTML).parts[0] not in ("_static", "_sources")
) or ["index.html"]
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# In a page that MathJax has finished: what stands where a formula should.
UNRENDERED = r"""() => {
  const found = [...document.querySelectorAll("mjx-merror")].map(e => e.title || e.textContent);
  for (const e of document.querySelectorAll(".math"))
    if (!e.querySelector("mjx-container")) found.push(e.textContent);
  const copy = document.querySelector("main").cloneNode(true);
  copy.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  return found.concat(copy.textContent.match(/\$\$|\\[(\[]|\\(begin|frac|text)\{|\$[^$\n]+\$/g) || []);
}"""

# Pictures of the article: address, alternative text, and whether it was drawn.
PICTURES = """() => [
  ...document.querySelectorAll("article img, article svg:not([aria-hidden=true]):not(button svg)")
].map(e => e.tagName == "IMG"
    ? [e.getAttribute("src").slice(0, 80), e.getAttribute("alt") || "", e.complete && e.naturalWidth > 0]
    : ["inline svg", e.getAttribute("aria-label") || e.querySelector("title")?.textContent || "", true])"""


# Contrast is slow to judge, and one of many elements that are styled alike is enough (the tokens of code, the
# numbers of a table: even and odd rows differ). What goes has no elements inside.
THIN_OUT = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll("article *:not(:has(*))")) {
    let path = "";
    for (let n = e; n.tagName != "ARTICLE"; n = n.parentElement)
      path += `${n.tagName} ${n.getAttribute("class")} ${n.getAttribute("style")} ${n.rowIndex % 2}/`;
    if (seen.has(path)) e.remove();
    seen.add(path);
  }
}"""


# What goes beyond the screen: the page as a whole, or a cell of code beyond its frame. Only tables may be scrolled.
CUT = """() => {
  const width = document.documentElement.clientWidth;
  const code = [...document.querySelectorAll("article .cell_input pre")].filter(e => e.scrollWidth > e.clientWidth);
  const found = code.map(e => `code wider than its frame: ${e.textContent.slice(0, 80)}`);
  if (document.documentElement.scrollWidth > width)
    for (const e of document.querySelectorAll("article *"))
      if (e.getBoundingClientRect().right > width + 1)
        found.push(`beyond the screen: ${e.tagName} ${e.textContent.slice(0, 80)}`);
  return found;
}"""
WIDTHS = (390, 1280)  # of a phone, and of a small laptop [px]


class Handler(SimpleHTTPRequestHandler):
    """Serves the book without a line on the terminal for each request."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, directory=str(HTML), **kwargs)

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        """Answer what a browser asks of any host on its own: the page that redirects to the book names no icon."""
        if self.path == "/favicon.ico":
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def site():
    if not (HTML / "index.html").is_file():
        pytest.skip("the book is not built here: run make book")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(site):
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium or Chrome is installed here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, site):
    """A tab that keeps, in ``tab.trouble``, whatever goes wrong while a page is open."""
    context = browser.new_context()
    tab = context.new_page()
    tab.trouble = []
    tab.on("console", lambda m: m.type == "error" and tab.trouble.append(f"console: {m.text} ({m.location['url']})"))
    tab.on("pageerror", lambda error: tab.trouble.append(f"script: {error}"))
    tab.on("requestfailed", lambda r: tab.trouble.append(f"request failed: {r.url} ({r.failure})"))
    tab.on("response", lambda r: r.status >= 400 and tab.trouble.append(f"{r.status}: {r.url}"))
    tab.on("request", lambda r: is_foreign(r.url, site) and tab.trouble.append(f"another host: {r.url}"))
    yield tab
    context.close()


def is_foreign(url: str, site: str) -> bool:
    return not url.startswith((site, "data:", "blob:"))


def visit(tab, url: str) -> None:
    """Open a page, follow its redirection if it is one, and wait until its formulas and fonts are there."""
    tab.goto(url)
    tab.wait_for_selector("main")
    tab.wait_for_load_state()
    tab.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")
    # Colours change at once with the scheme, and what is unfolded is there.
    tab.add_style_tag(content="* { transition: none !important; animation: none !important; }")


class Anchors(HTMLParser):
    """Collects the places of a page that a link can point to."""

    def __init__(self):
        super().__init__()
        self.names = {"", "top"}

    def handle_starttag(self, tag, attrs):
        self.names.update(value for key, value in attrs if value and (key == "id" or (tag, key) == ("a", "name")))


@cache
def anchors(file: Path) -> set[str]:
    parser = Anchors()
    parser.feed(file.read_text(encoding="utf-8"))
    return parser.names


def broken(links: list[str], site: str) -> list[str]:
    """Return the links into the book whose file or anchor does not exist."""
    found = []
    for link in links:
        address, anchor = urldefrag(link)
        anchor = "" if "=" in anchor else anchor  # a question to the page Explore
        if not address.startswith(site):
            continue
        file = HTML / unquote(urlsplit(address).path).lstrip("/")
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file() or (file.suffix == ".html" and unquote(anchor) not in anchors(file)):
            found.append(link)
    return found


def is_description(text: str) -> bool:
    """Return whether a text describes a picture: several words, no file name and no dump of an object."""
    return len(text.split()) >= 3 and "/" not in text.split()[0] and not text.lstrip().startswith("<")


def troubles_of(tab, site: str) -> list[str]:
    """Return what is wrong with the links, formulas and pictures of the open page."""
    links = tab.evaluate("() => [...document.querySelectorAll('a[href]')].map(a => a.href)")
    found = [f"broken link: {link}" for link in broken(links, site)]
    found += [f"formula: {text}" for text in tab.evaluate(UNRENDERED)]
    for address, text, drawn in tab.evaluate(PICTURES):
        if not is_description(text):
            found.append(f"no alternative text, got {text!r}: {address}")
        if not drawn:
            found.append(f"picture not drawn: {address}")
    return found


def barriers_of(tab, **options) -> list[str]:
    """Return the serious and critical findings of axe-core on the open page."""
    result = Axe().run(tab, options={"preload": False, "resultTypes": ["violations"], **options})
    return [
        f"{violation['impact']}: {violation['help']} ({violation['id']}): {node['html'][:200]}"
        for violation in result.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_page(tab, site, name):
    visit(tab, site + name)
    found = troubles_of(tab, site) + barriers_of(tab, rules={"color-contrast": {"enabled": False}})
    tab.evaluate("() => document.querySelectorAll('details').forEach(e => e.open = true)")
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 720})
        found += [f"{width} px, {cut}" for cut in tab.evaluate(CUT)]
    tab.evaluate(THIN_OUT)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_function("scheme => document.documentElement.dataset.theme == scheme", arg=scheme)
        found += [f"{scheme} page, {barrier}" for barrier in barriers_of(tab, runOnly=["color-contrast"])]
    assert not tab.trouble + found, "\n".join([name, *tab.trouble, *found])


def test_the_step_view_is_readable_on_a_phone(tab, site):
    tab.set_viewport_size({"width": 390, "height": 800})
    visit(tab, site + "notebooks/07_datapath.html")
    tab.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.locator(".steps input").nth(1).check()
    shown = tab.locator(".steps .round:visible svg")
    assert shown.count() == 3
    for drawing in shown.all():
        assert drawing.bounding_box()["width"] == float(drawing.get_attribute("width"))  # no number is scaled down
    for choice in tab.locator(".steps .choice").all():
        button, label = choice.locator("input").bounding_box(), choice.locator("label").bounding_box()
        assert abs(button["y"] - label["y"]) < label["height"]  # in one line
    assert not tab.trouble


def test_search_finds_a_page(tab, site):
    visit(tab, site + "search.html?q=epitome")
    tab.wait_for_selector("#search-results li a[href*=glossary]")  # results come in one by one
    assert not tab.trouble


@pytest.mark.parametrize(("number", "page"), [("128", "02_crossbar"), ("30.65", "03_mapping"), ("13888", "01_memory")])
def test_search_finds_a_number(tab, site, number, page):
    visit(tab, site + f"search.html?q={number}")
    tab.wait_for_selector(f"#search-results li a[href*={page!r}]")
    assert not tab.trouble
