"""The step view, read back: one picture per round that shows what the datapath does."""

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest
import torch

from epimlib import EpitomeSpec, Hardware
from epimlib.datapath import compile, run
from epimlib.lab.stepview import BLUE, GREEN, YELLOW, step_view

SMALL = {"crossbar.rows": 16, "crossbar.cols": 8, "dac.per_crossbar": 16}
SPEC = EpitomeSpec(12, 4, 3, (4, 2, 4, 4), block=(4, 2), wrap=2)


def make(polarity=2):
    hardware = Hardware.preset("default").replace(SMALL | {"crossbar.polarity": polarity, "adc.bits": 8})
    draw = torch.Generator().manual_seed(1)
    epitome = torch.randint(-7, 8, SPEC.epitome, generator=draw)
    image = torch.randint(0, 16, (4, 6, 6), generator=draw)
    return compile(SPEC.plan(), epitome, hardware, 4, 4, padding=1), epitome, image


def pictures(html):
    style, body = html.split("</style>")
    assert style.startswith("<style>")
    body = re.sub(r"<(input[^>]*)>", r"<\1/>", body)  # HTML leaves them open
    rounds = [element for element in ET.fromstring(body).iter("div") if element.get("class") == "round"]
    assert all(round.get("role") == "img" for round in rounds)
    return rounds


def drawings(picture):
    """The groups of input, matrix and output."""
    return [svg.find("{http://www.w3.org/2000/svg}g") for svg in picture]


def cells(picture, group, colour):
    return [
        rect for rect in drawings(picture)[group].iter("{http://www.w3.org/2000/svg}rect") if rect.get("fill") == colour
    ]


def texts(element):
    return [text.text for text in element.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("polarity", [1, 2])
def test_every_round_colours_what_it_touches_and_the_last_shows_the_output(polarity):
    program, epitome, image = make(polarity)
    view = pictures(step_view(program, image, (0, 3)))
    assert len(view) == 4  # two groups of output blocks times two input blocks
    for picture in view:
        assert len(cells(picture, 0, BLUE)) == 2 * 6  # two channels, the upper row of the window is padding
        assert len(cells(picture, 1, BLUE)) == 2 * 9 * 4  # nine of 16 word lines of both channels, all columns
        assert len(cells(picture, 2, GREEN)) == 4
        weights = epitome.reshape(4, 32).T.flatten().tolist()
        shown = [text.text for text in drawings(picture)[1] if text.get("text-anchor") == "middle"][:128]
        assert shown == [str(weight) for weight in weights]
    assert [len(cells(picture, 2, YELLOW)) for picture in view] == [0, 4, 0, 0]
    output = run(program, image).output[:, 0, 3].long().tolist()
    held = [text.text for text in drawings(view[-1])[2] if text.get("x") == "114"]
    assert held == [str(value) for value in output]
    assert "then hold " + ", ".join(map(str, output[8:])) in view[-1].get("aria-label")


def test_with_coefficients_every_block_that_shares_the_sums_is_coloured_and_says_by_what_they_are_weighed():
    spec = dataclasses.replace(SPEC, coefficients="sign")
    hardware = Hardware.preset("default").replace(SMALL | {"adc.bits": 8})
    draw = torch.Generator().manual_seed(1)
    epitome = torch.randint(-7, 8, spec.epitome, generator=draw)
    image = torch.randint(0, 16, (4, 6, 6), generator=draw)
    signs = 2 * torch.randint(0, 2, (12, 2), generator=draw) - 1
    program = compile(spec.plan(), epitome, hardware, 4, 4, padding=1, coefficients=signs)
    view = pictures(step_view(program, image, (0, 3)))
    assert [len(cells(picture, 2, GREEN)) for picture in view] == [8, 8, 4, 4]
    assert [len(cells(picture, 2, YELLOW)) for picture in view] == [0] * 4
    output = run(program, image).output[:, 0, 3].long().tolist()
    assert [text.text for text in drawings(view[-1])[2] if text.get("x") == "114"] == [str(value) for value in output]
    for number, picture in enumerate(view):
        sums = [
            int(text)
            for text in re.search(r"give the sums ([-\d, ]+), weighed", picture.get("aria-label"))[1].split(", ")
        ]
        first = 0 if number < 2 else 8
        channels = range(8) if number < 2 else range(8, 12)
        wanted = [f"{signs[c, number % 2]} × {sums[(c - first) % 4]}" for c in channels]
        assert [text.text.removeprefix("+") for text in drawings(picture)[2] if text.get("x") == "126"] == wanted
    assert f"coefficients {', '.join(map(str, signs[4:8, 1].tolist()))}, then hold" in view[1].get("aria-label")
    assert "and to channels 4 to 7" in texts(view[0])


def test_every_drawing_is_narrow_enough_for_a_phone():
    program, _, image = make()
    for picture in pictures(step_view(program, image)):
        assert len(picture) == 3
        assert all(int(svg.get("width")) <= 330 for svg in picture)  # [px], and no text is scaled down


def test_every_choice_has_a_label_and_only_the_first_is_chosen():
    program, _, image = make()
    html = step_view(program, image)
    identifiers = re.findall(r'<input[^>]* id="([^"]+)"', html)
    assert len(identifiers) == 5  # four rounds, and play
    assert re.findall(r'<label for="([^"]+)"', html) == identifiers
    assert html.count(" checked") == 1 + html.split("</style>")[0].count(" checked")
    assert "<script" not in html


def test_what_cannot_be_drawn_is_refused():
    program, _, image = make()
    with pytest.raises(ValueError, match="height must be at most 8 to be drawn, got 9"):
        step_view(program, torch.zeros(4, 9, 6, dtype=torch.long))
    grouped = compile(None, torch.ones(4, 1, 3, 3, dtype=torch.long), program.hardware, 4, 4, groups=4)
    with pytest.raises(ValueError, match="grouped convolution"):
        step_view(grouped, image)
    plan = EpitomeSpec(8, 8, 1, epitome=(4, 4, 1, 1)).plan()
    linear = compile(plan, torch.ones(4, 4, 1, 1, dtype=torch.long), program.hardware, 4, 4, kind="linear")
    with pytest.raises(ValueError, match="program must be of a convolution to be drawn, but .* is linear"):
        step_view(linear, torch.ones(8, dtype=torch.long))
    with pytest.raises(ValueError, match="position"):
        step_view(program, image, (-1, 0))
