"""Figures are readable on light and dark pages and for colour-blind readers, and carry their data."""

import itertools
import re
import subprocess
import sys
from io import StringIO
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from epimlib.lab.figures import INK, OURS, PALETTE, PAPER, canvas, show

LIGHT, DARK = "#ffffff", "#222832"  # the pages of the theme; of its dark backgrounds the lighter one

# Sight without one kind of cone, in linear RGB: Machado, Oliveira, Fernandes, IEEE TVCG 15(6), 2009.
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
TRITANOPIA = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]
RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """The ratio of WCAG 2.1."""
    low, high = sorted(RGB_TO_XYZ[1] @ linear(color) for color in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    """CIE 1976 L*a*b*; a distance of 2.3 is just noticeable."""
    x = RGB_TO_XYZ @ np.clip(rgb, 0, 1) / RGB_TO_XYZ.sum(axis=1)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / 3 * (29 / 6) ** 2 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(a, b):
    """The smallest distance that any reader sees."""
    eyes = [np.eye(3), DEUTERANOPIA, PROTANOPIA, TRITANOPIA]
    return min(np.linalg.norm(lab(eye @ linear(a)) - lab(eye @ linear(b))) for eye in map(np.array, eyes))


@pytest.fixture
def shown(monkeypatch):
    """The mime bundles that were displayed."""
    bundles = []
    monkeypatch.setattr("epimlib.lab.figures.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def draw(name="squares", data=None, alt="A line that rises."):
    data = pd.DataFrame({"x": range(5), "x²": [x**2 for x in range(5)]}) if data is None else data
    figure, axes = canvas(height=2)
    axes.plot(range(5), color=OURS)
    axes.plot(range(4), color=PAPER)
    axes.fill_between([1, 2], [1, 2], clip_on=True)
    show(figure, data, name, alt)


def test_every_colour_stands_out_from_both_pages():
    # 3:1 is what WCAG 2.1 asks of graphics.
    assert all(contrast(color, page) >= 3 for color in [PAPER, *PALETTE] for page in (LIGHT, DARK))


def test_ours_and_the_papers_colour_are_told_apart_by_everybody():
    assert distance(OURS, PAPER) > 60
    assert min(distance(a, b) for a, b in itertools.combinations([PAPER, *PALETTE], 2)) > 10


def test_text_takes_the_colour_of_the_page(shown):
    draw()
    html = shown[0]["text/html"]
    assert INK not in html
    assert html.count("currentColor") > 10
    assert OURS in html
    assert PAPER in html


def test_the_background_is_the_page(shown):
    draw()
    figure_patch = re.search(r'id="patch_1">\s*<path[^>]*style="([^"]*)"', shown[0]["text/html"])[1]
    assert "fill: none" in figure_patch


def test_the_link_holds_the_data(shown):
    data = pd.DataFrame({"crossbars": [13120, 13888], "note": ['a "quoted" head', "1000 classes & more"]})
    data.index = pd.Index(["a", "b"], name="convention")
    draw(data=data)
    address = re.search(r'download="squares.csv" href="data:text/csv;charset=utf-8,([^"]*)"', shown[0]["text/html"])[1]
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(unquote(address)), index_col="convention"), data)


def test_the_data_keep_every_level_of_an_index(shown):
    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["layer", "bits"])
    draw(data=pd.DataFrame({"crossbars": [4, 8]}, index=index))
    address = re.search(r'href="data:text/csv;charset=utf-8,([^"]*)"', shown[0]["text/html"])[1]
    assert unquote(address) == "layer,bits,crossbars\na,1,4\nb,2,8\n"


def test_the_alternative_text_is_the_figures_name_and_its_plain_text(shown):
    draw(alt='Bits < 9 & "rows"')
    assert 'role="img" aria-label="Bits &lt; 9 &amp; &quot;rows&quot;"' in shown[0]["text/html"]
    assert shown[0]["text/plain"] == 'Bits < 9 & "rows"'


def test_a_figure_is_one_output_and_is_closed(shown):
    draw()
    assert len(shown) == 1
    assert plt.get_fignums() == []


def test_the_same_figure_is_the_same_file_and_shares_no_clip_path_with_another(shown):
    draw("one")
    draw("one")
    draw("two")
    one, again, two = (bundle["text/html"] for bundle in shown)
    assert one == again
    clips = [set(re.findall(r'<clipPath id="(\w+)"', html)) for html in (one, two)]
    assert clips[0]
    assert clips[1]
    assert clips[0].isdisjoint(clips[1])


@pytest.mark.parametrize(
    ("data", "alt", "error", "message"),
    [
        ([1, 2], "text", TypeError, "data must be a DataFrame, got list"),
        (pd.DataFrame({"x": []}), "text", ValueError, "data with rows and an alt text, got 0 rows"),
        (pd.DataFrame({"x": [1]}), " ", ValueError, "got 1 rows and ' '"),
    ],
)
def test_a_figure_without_data_or_words_is_refused(data, alt, error, message):
    with pytest.raises(error, match=message):
        draw(data=data, alt=alt)
    plt.close("all")


def test_the_library_itself_imports_no_plotting():
    program = "import sys, epimlib; sys.exit(bool({'matplotlib', 'seaborn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
