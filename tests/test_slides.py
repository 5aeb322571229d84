"""Slides: what they take from the chapters, and every deck in a headless browser."""

import re
from pathlib import Path

import pytest
from nbformat import v4

from tests import test_browser
from tests.test_browser import barriers_of, is_description
from tests.test_notebooks import load

browser, tab = test_browser.browser, test_browser.tab

slides = load("book/slides.py")
ROOT = Path(__file__).parents[1]
SLIDES = ROOT / "_build" / "slides"
SOURCES = sorted((ROOT / "book" / "slides").glob("*.md"))
FRAMES = ((1280, 720), (1024, 768))  # of a projector, old and new [px]
LEAST = 9  # height of the letters of a figure [px of 720]

each_deck = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


# What a slide takes from its chapter --------------------------------------------------------------------


def chapter() -> "slides.Chapter":
    """A chapter with one of everything that a slide may show."""
    prose = v4.new_markdown_cell(
        "# Title\n\n```{math}\n:label: eq-one\na = b\n```\n\n```{math}\n:label: eq-two\na &= b \\\\\nc &= d\n```\n\n"
        ":::{predict} number\n:answer: rate\n\nUse {eq}`eq-two`. Is it more than {glue:text}`rate:.1f`?\n:::\n\n"
        "```{exercise} A *sum*\n:label: ex-one\n\nAdd.\n```\n\n"
        "```{figure} ../book/figures/crossbar.svg\n:name: fig-wires\n:alt: wires\n\nCaption.\n```\n"
    )
    record = {"scrapbook": {"name": "rate", "mime_prefix": "application/papermill.record/"}}
    table = v4.new_output("execute_result", {"text/html": "<style>td {}</style><table><tr><td>7</td></tr></table>"})
    drawn = v4.new_output(
        "display_data", {"text/html": '<svg class="plot" aria-label="a line"></svg><p><a download="x">'}
    )
    drawn.data["text/html"] += "Data</a></p>"
    glued = v4.new_output("display_data", {slides.GLUED: "0.25"}, metadata=record)
    steps = "".join(f'<div class="round"><svg>{i}</svg></div>' for i in range(3))
    cells = [
        v4.new_code_cell("rate", id="c-1", outputs=[glued]),
        v4.new_code_cell("table", id="c-2", outputs=[table, glued]),
        v4.new_code_cell("plot", id="c-3", outputs=[drawn], metadata={"mystnb": {"figure": {"name": "fig-line"}}}),
        v4.new_code_cell("print", id="c-4", outputs=[v4.new_output("stream", text="1 < 2\n")]),
        v4.new_code_cell("steps", id="c-5", outputs=[v4.new_output("display_data", {"text/html": steps})]),
    ]
    return slides.Chapter("07_example", [cells[0], prose, *cells[1:]])


def slide(content: str) -> str:
    """Return a slide with this content as HTML."""
    deck = slides.Deck("07_example", f"# Example\n\nWhy?\n\n## Slide\n\n{content}\n", chapter())
    return deck.slides()[1]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("It is {glue:text}`rate:.0%`.", "<p>It is 25%.</p>"),
        ("It is {glue:text}`rate`.", "<p>It is 0.25.</p>"),
        ("See {eq}`eq-two`.", "<p>See (7.2).</p>"),
        ("See {numref}`fig-line`.", "<p>See Fig. 7.2.</p>"),
        ("See {eq}`eq-slices`.", "<p>See (3.3).</p>"),
        ("```{of-chapter} eq-one\n```", r"\[a = b\tag{7.1}\]"),
        ("```{of-chapter}\neq-two\n```", r"\[\begin{split}a &amp;= b \\" + "\n" + r"c &amp;= d\end{split}\tag{7.2}\]"),
        ("```{of-chapter} predict 1\n```", "<p>Use (7.2). Is it more than 0.2?</p>"),
        ("```{of-chapter} ex-one\n```", "<p>Add.</p>"),
        ("```{of-chapter} c-2\n```", '<div class="table"><table><tr><td>7</td></tr></table></div>'),
        ("```{of-chapter} fig-line\n```", '<figure><svg class="plot" aria-label="a line"></svg></figure>'),
        ("```{of-chapter} c-4\n```", "<pre>1 &lt; 2</pre>"),
        ("```{of-chapter} c-5\n```", 'data-fragment-index="1"><div class="round"><svg>2</svg></div></div></figure>'),
        ("```{of-chapter} fig-crossbar\n```", '<figure><svg role="img" aria-label="Four horizontal word lines'),
        ("```{of-chapter} fig-epitome\n```", '<figure><svg role="img" aria-label="Left, a small square grid'),
        (":::{fragment}\nThen $x$.\n:::", '<div class="fragment"><p>Then \\(x\\).</p>'),
        ("::::{fragment}\n```{of-chapter} c-4\n```\n::::", '<div class="fragment"><pre>1 &lt; 2</pre></div>'),
        (":::{notes}\nAsk.\n:::", '<aside class="notes"><p>Ask.</p>'),
        ("```python\nimport math\n```", '<div class="code"><pre>'),
        ("<b>", "<p>&lt;b&gt;</p>"),
    ],
)
def test_a_slide_shows_what_the_chapter_has(content, shown):
    assert shown in slide(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{glue:text}`ratio:.0%`", r"there is no number 'ratio' in chapter 07_example; did you mean 'rate'\?"),
        ("{eq}`eq-tow`", r"there is no labelled equation or figure 'eq-tow' .*; did you mean 'eq-two'\?"),
        ("{doc}`07_example`", r"a slide knows glue:text, eq and numref, not \{doc\}`07_example`"),
        ("```{of-chapter} fig-lime\n```", r"there is no figure.* 'fig-lime' .*; did you mean 'fig-line'\?"),
        ("```{of-chapter} c-1\n```", r"there is no figure, equation, exercise or output 'c-1'"),
        ("```{of-chapter} predict 2\n```", r"there is no prompt 'predict 2'; the chapter has 1"),
        ("```{figure} x.svg\n```", r"a slide knows of-chapter, fragment and notes, not \{figure\}"),
        ("{glue:text}`rate:.2q`", "'rate' is 0.25, which cannot be written as '.2q'"),
        ("```pyhton\nx\n```", "code must be of a language that Pygments knows, or of none, not of 'pyhton'"),
        ("```{of-chapter} c-2```", r"'\{of-chapter\} c-2' needs lines of its own"),
    ],
)
def test_a_slide_that_asks_for_what_is_not_there_is_named(content, why):
    with pytest.raises(slides.SlideError, match=rf"book/slides/07_example.md, slide 'Slide': {why}"):
        slide(content)


def test_a_deck_takes_slides_of_others():
    source = "# Example\n\n## One\n\n$x$\n\n:::{notes}\nAsk.\n:::\n\n## Two\n"
    others = {"07_example": slides.Deck("07_example", source, chapter())}
    deck = slides.Deck("lecture", '# Lecture\n\n```{slide} 07_example "One"\nNow.\n```\n\n## Own\n', None, others)
    assert [re.sub(r"</?(section|p).*?>|\n", "", text) for text in deck.slides()] == [
        "<h1>Lecture</h1>",
        r'<h2>One</h2>\(x\)<aside class="notes">Now.Ask.</aside>',
        "<h2>Own</h2>",
    ]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ('07_example "Three"', "deck 07_example has no such slide; known are One"),
        ('07_exam "One"', "there is no deck '07_exam'"),
        ("07_example One", 'behind {slide} must stand NAME "Heading"'),
    ],
)
def test_a_slide_that_no_deck_has_is_named(place, why):
    others = {"07_example": slides.Deck("07_example", "# One\n", chapter())}
    deck = slides.Deck("lecture", f"# Lecture\n\n```{{slide}} {place}\n```\n", None, others)
    with pytest.raises(slides.SlideError, match=re.escape(f"book/slides/lecture.md, slide '{place}': {why}")):
        deck.slides()


def test_a_deck_starts_with_its_title():
    for source in ("", "## Heading\n", "Text\n\n# Title\n"):
        with pytest.raises(slides.SlideError, match="x.md must start with '# Title'"):
            slides.Deck("x", source, None).slides()


def test_a_chapter_that_is_not_there_or_was_not_executed_is_named(monkeypatch, tmp_path):
    with pytest.raises(slides.SlideError, match="no chapter '08_reus'; did you mean '08_reuse'"):
        slides.Chapter.load("08_reus")
    (tmp_path / "notebooks").mkdir()
    text = (ROOT / "notebooks" / "08_reuse.ipynb").read_text(encoding="utf-8")
    (tmp_path / "notebooks" / "08_reuse.ipynb").write_text(text, encoding="utf-8")
    monkeypatch.setattr(slides, "ROOT", tmp_path)
    with pytest.raises(slides.SlideError, match="08_reuse.ipynb as it is now was not executed; run make book first"):
        slides.Chapter.load("08_reuse")


def test_an_error_is_one_sentence_and_ends_with_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(slides, "SOURCES", tmp_path)
    (tmp_path / "lecture.md").write_text("# Lecture\n\n```{of-chapter} fig-none\n```\n", encoding="utf-8")
    assert slides.main(str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert said.startswith("slides: book/slides/lecture.md, slide 'Lecture': there is no figure")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


# The decks, as they are written -------------------------------------------------------------------------


@each_deck
def test_a_deck_has_its_size_and_notes_on_every_slide(path):
    """Parts of a deck of nothing but references have their notes where they come from."""
    deck = slides.Deck(path.stem, path.read_text(encoding="utf-8"), None)
    least, most = (10, 15) if path.stem[0].isdigit() else (20, 30)
    assert least <= len(deck.parts) <= most
    assert len({heading for heading, _ in deck.parts if heading}) == len([h for h, _ in deck.parts if h])
    for heading, tokens in deck.parts:
        notes = [token.content for token in tokens if token.info == "{notes}"]
        assert heading == "" or (len(notes) == 1 and len(notes[0].split()) >= 10), heading


def test_every_chapter_has_a_deck():
    chapters = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {path.stem for path in SOURCES if path.stem[0].isdigit()} == chapters


def test_equations_and_figures_have_the_numbers_of_the_book():
    pages = ROOT / "_build" / "html" / "notebooks"
    if not pages.is_dir():
        pytest.skip("the book is not built here: run make book")
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        page = (pages / f"{path.stem}.html").read_text(encoding="utf-8")
        found = {name: f"({n})" for n, name in re.findall(r'class="eqno">\((.*?)\).*?href="#equation-(.*?)"', page)}
        found |= dict(re.findall(r'<figure.*? id="(.*?)">.*?"caption-number">(.*?) <', page, re.S))
        assert slides.Chapter.load(path.stem).numbers == found, f"{path.stem}: is the book built from it as it is now?"


# The decks in a browser ---------------------------------------------------------------------------------

# On every slide, the first element that sticks out of the frame, or into its margin.
OUTSIDE = """() => [...document.querySelectorAll(".slides > section")].flatMap(section => {
  const frame = section.getBoundingClientRect();
  const isOut = e => {
    const box = e.getBoundingClientRect(), isInline = getComputedStyle(e).display == "inline";
    const isCut = e instanceof HTMLElement && !isInline && e.scrollWidth > e.clientWidth + 20;
    return isCut || box.right > frame.right - 20 || box.bottom > frame.bottom - 30;
  };
  const out = [...section.querySelectorAll("*:not(.notes, .notes *, figure svg *, mjx-container *)")].find(isOut);
  const heading = section.querySelector("h1, h2").textContent;
  return out ? [[heading, `${out.tagName} ${out.textContent.trim().slice(0, 40)}`]] : [];
})"""
# The slide of each figure, and how high its smallest letters are; notebooks draw letters as paths, of 11 points.
LETTERS = """() => [...document.querySelectorAll(".slides figure svg")].flatMap(svg => {
  const box = svg.getBoundingClientRect(), drawn = svg.viewBox.baseVal;
  const sizes = [...svg.querySelectorAll("text")].map(text => parseFloat(getComputedStyle(text).fontSize));
  const scale = Math.min(box.width / drawn.width, box.height / drawn.height);
  const smallest = scale * Math.min(...(sizes.length ? sizes : [11]));
  return svg.getClientRects().length ? [[svg.closest("section").querySelector("h1, h2").textContent, smallest]] : [];
})"""
ALT = test_browser.PICTURES.replace("article", ".slides")
THIN_OUT_SLIDES = test_browser.THIN_OUT.replace("article *", ".slides > section :not(title)").replace(
    '"ARTICLE"', '"SECTION"'
)
FORMULAS = r"""() => [...document.querySelectorAll("mjx-merror")].map(e => e.title || e.textContent).concat(
  document.querySelector("main").textContent.match(/\\[(\[]/g) || [])"""


@pytest.fixture(scope="module")
def site():
    """Takes the place of the book's server: slides are opened as files."""
    if not (SLIDES / "index.html").is_file():
        pytest.skip("the slides are not built here: run make slides")
    return SLIDES.as_uri() + "/"


def visit(tab, url: str) -> None:
    """Open a deck and wait until its formulas and fonts are there."""
    tab.goto(url)
    tab.evaluate("async () => { await MathJax.startup.promise; await document.fonts.ready; }")


@pytest.mark.browser
@each_deck
def test_deck(tab, site, path):
    found = []
    visit(tab, f"{site}{path.stem}.html?print-pdf")
    for width, height in FRAMES:
        tab.set_viewport_size({"width": width, "height": height})
        tab.wait_for_function(
            "width => getComputedStyle(document.documentElement).getPropertyValue('--width') == width",
            arg=f"{960 if width / height < 1.5 else 1280}px",
        )
        found += [f"{width}x{height}, slide {name!r}: {what} sticks out" for name, what in tab.evaluate(OUTSIDE)]
        letters = [(name, size) for name, size in tab.evaluate(LETTERS) if size < LEAST]
        found += [f"{width}x{height}, slide {name!r}: letters of {size:.1f} px" for name, size in letters]
    found += [f"formula: {text}" for text in tab.evaluate(FORMULAS)]
    found += [f"no alternative text: {text!r}" for _, text, _ in tab.evaluate(ALT) if not is_description(text)]
    tab.evaluate(THIN_OUT_SLIDES)
    found += barriers_of(tab)
    tab.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    found += [f"dark, {barrier}" for barrier in barriers_of(tab, runOnly=["color-contrast"])]
    assert not tab.trouble + found, "\n".join([path.stem, *tab.trouble, *found])


@pytest.mark.browser
def test_a_lecturer_steps_through_a_deck(tab, site):
    """With the keys of reveal.js; pictures of steps take each other's place, and a slide fits here as on paper."""
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{site}07_datapath.html")
    tab.wait_for_function("Reveal.isReady()")
    theme = "document.documentElement.dataset.theme"
    assert tab.evaluate(theme) == "dark"
    tab.keyboard.press("d")
    assert tab.evaluate(theme) == "light"
    tab.click("#scheme")
    assert tab.evaluate(theme) == "dark"
    assert tab.evaluate("Reveal.getConfig().width") == 1280
    tab.set_viewport_size({"width": 1024, "height": 768})
    tab.wait_for_function("Reveal.getConfig().width == 960")
    shown = """() => [...document.querySelectorAll(".present .in-turn > .fragment")].flatMap(
        (e, i) => e.matches(".fade-out:not(.visible), .current-visible.current-fragment") ? [i] : [])"""
    found, pictures = [], set()
    while not tab.evaluate("Reveal.isLastSlide()"):
        found += tab.evaluate(OUTSIDE.replace('section")]', 'section.present")]'))
        pictures.add(tuple(tab.evaluate(shown)))
        tab.keyboard.press("ArrowRight")
    assert found == []
    assert pictures == {(), (0,), (1,), (2,), (3,)}
    assert tab.trouble == []


@pytest.mark.browser
def test_the_list_names_every_deck(tab, site):
    tab.goto(f"{site}index.html")
    links = tab.evaluate("() => [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert links == ["lecture.html", *(f"{path.stem}.html" for path in SOURCES if path.stem[0].isdigit())]
    assert all((SLIDES / link).is_file() for link in links)
    assert tab.trouble + barriers_of(tab) == []
