"""Hardware descriptions: presets, units, sources, changes, and what is refused."""

import copy
import json
import math
from importlib.resources import files

import numpy as np
import pytest
import yaml

from epimlib import Hardware
from epimlib.pim.hardware import KINDS, Buffer, Digital

PRESETS = ["default", "isaac", "mnsim-2021", "mnsim-2024"]
FOLDER = files("epimlib.pim") / "presets"


def data(name: str = "default") -> dict:
    """Return a preset as plain data that a test may spoil."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_round_trip_through_json(name):
    hardware = Hardware.preset(name)
    again = Hardware.from_dict(json.loads(json.dumps(hardware.to_dict())))
    assert again == hardware
    assert hash(again) == hash(hardware)
    assert again.name == hardware.name == name
    assert again.provenance == hardware.provenance


@pytest.mark.parametrize("name", PRESETS)
def test_every_constant_has_a_kind_and_a_source(name):
    table = Hardware.preset(name).constants()
    assert set(table["kind"]) <= set(KINDS)
    assert table["source"].str.len().min() > 3
    explained = table[table["kind"].isin(["derived", "assumed"]) & ~table.index.str.endswith("packing")]
    assert (explained["note"].str.len() > 5).all(), "what is derived or assumed says how or why"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_readme_that_names_its_sources(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}")
    for heading in ("## What it models", "## Where it differs from its source", "## References"):
        assert heading in text


def test_values_are_in_si_units():
    h = Hardware.preset("default")
    assert (h.adc.power, h.adc.rate, h.adc.area) == pytest.approx((2e-3, 1.28e9, 1200e-12))
    assert (h.digital.period, h.chip.bandwidth, h.tile.bit_energy) == pytest.approx((2e-9, 20e9, 0.054e-12))
    assert h.buffer.capacity[0] == 2 * 1024 * 8
    assert h.crossbar.rows == h.crossbar.cols == 256
    assert h.reuse is True


@pytest.mark.parametrize(
    ("name", "volt", "off", "on"), [("mnsim-2024", 0.15, 1e6, 1e4), ("mnsim-2021", 0.5, 1e7, 3333)]
)
def test_power_of_a_cell_follows_from_voltage_and_resistance(name, volt, off, on):
    """A word line carries a one with probability 0.1; a third of the cells is on (MNSIM's averages)."""
    expected = 0.1 * volt**2 * (0.67 / off + 0.33 / on)
    assert Hardware.preset(name).array.cell_power == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", ["mnsim-2024", "mnsim-2021", "default"])
def test_scaled_digital_logic(name):
    h = Hardware.preset(name)
    scale = (45 / 65) ** 2
    values = (h.register.area, h.register.power, h.joint.area, h.joint.power)
    expected = (1.4256e-12 * scale, 18.8e-9 * scale, 353.76e-12 * scale, 0.264e-3 * scale)
    assert values == pytest.approx(expected, rel=1e-14)


def test_isaac_adds_up_to_what_the_paper_says():
    h = Hardware.preset("isaac")
    cells = h.crossbar.rows * h.crossbar.cols
    assert cells * h.array.cell_area == pytest.approx(25e-12)
    assert cells * h.array.cell_power == pytest.approx(0.3e-3)
    assert 1 / h.dac.rate + h.array.read_latency == pytest.approx(100e-9)
    assert h.crossbar.cols / h.adc.rate == pytest.approx(100e-9), "one ADC reads all columns in one cycle"
    assert h.chip.rows * h.chip.cols == 168
    assert h.shift_add.power * h.digital.period == pytest.approx(0.021e-12)
    assert (h.buffer.capacity[-1], h.buffer.area[-1]) == (64 * 1024 * 8, pytest.approx(0.083e-6))
    assert h.tile.groups * h.tile.elements == 8 * 12


def test_integers_of_numpy_become_plain_data():
    changed = Hardware.preset("default").replace({"crossbar.rows": np.int64(128)})
    assert json.loads(json.dumps(changed.to_dict()))["crossbar"]["rows"]["value"] == 128


def test_a_description_from_before_analog_sums_converts_every_read():
    data = Hardware.preset("default").to_dict()
    del data["adc"]["accumulate"], data["adc"]["sum_energy"]
    hardware = Hardware.from_dict(data)
    assert (hardware.adc.accumulate, hardware.adc.sum_energy) == ("read", 0.0)
    changed = hardware.replace({"adc.accumulate": "output", "adc.sum_energy": 1e-15})
    assert (changed.adc.accumulate, changed.adc.sum_energy) == ("output", 1e-15)
    assert Hardware.from_dict(changed.to_dict()) == changed


def test_replace_takes_si_numbers_and_units():
    h = Hardware.preset("default")
    changed = h.replace({"crossbar.rows": 128, "adc.rate": 1e9, "adc.power": "1.5 mW", "reuse": False})
    assert (changed.crossbar.rows, changed.adc.rate, changed.adc.power, changed.reuse) == (128, 1e9, 1.5e-3, False)
    assert h.crossbar.rows == 256, "the preset itself is unchanged"
    assert changed.crossbar.cols == h.crossbar.cols
    assert changed != h
    row = changed.constants().loc["adc.power"]
    assert (row["value"], row["kind"], row["note"]) == ("1.5 mW", "assumed", "2 mW in default")
    assert h.replace({"adc.rate": h.adc.rate}) == h
    assert h.replace({"buffer.leakage": [0] * 9}).buffer.leakage == (0.0,) * 9
    assert h.replace({"rules": "mnsim"}).rules == "mnsim"
    assert Hardware.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize(("bits", "macro"), [(1, 0), (16384, 0), (16385, 1), (524288, 5), (1e9, 8)])
def test_a_buffer_is_the_smallest_macro_that_holds_its_bits(bits, macro):
    assert Hardware.preset("mnsim-2024").buffer.macro(bits) == macro


def test_multiplexers_as_the_simulator_counts_them():
    assert [Digital.stages(ratio) for ratio in (1, 2, 7, 8, 63, 64)] == [2, 2, 2, 3, 3, 4]
    assert [Digital.transistors(ratio) for ratio in (1, 2, 3, 4, 8, 16, 32, 64, 128)] == [
        8, 8, 24, 24, 72, 216, 648, 1944, 1944,
    ]  # fmt: skip


def test_printing_names_every_constant():
    h = Hardware.preset("isaac")
    assert "adc.power" in str(h)
    assert "20.45 pJ" in h._repr_html_()
    assert "provenance" not in repr(h)


def spoiled(section: str, field: str, **entry) -> dict:
    changed = data()
    changed[section][field] = {**changed[section][field], **entry}
    return changed


def without(section: str, field: str, key: str | None = None) -> dict:
    changed = copy.deepcopy(data())
    if key is None:
        del changed[section][field]
    else:
        del changed[section][field][key]
    return changed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: data() | {"dca": {}}, r"unknown key 'dca' in a hardware description; did you mean 'dac'\?"),
        (lambda: without("adc", "power"), "adc lacks 'power'"),
        (lambda: without("adc", "power", "source"), "adc.power lacks 'source'"),
        (lambda: without("adc", "power", "kind"), "adc.power lacks 'kind'"),
        (lambda: spoiled("adc", "power", unit="W"), "unknown key 'unit' in adc.power"),
        (lambda: spoiled("adc", "power", source="issac"), "adc.power names source 'issac', .* did you mean 'isaac'"),
        (lambda: spoiled("adc", "power", kind="guess"), "kind of adc.power must be one of 'paper', .* got 'guess'"),
        (
            lambda: spoiled("adc", "power", value="2 ns"),
            "adc.power must have one of the units W, mW, uW, nW, got '2 ns'",
        ),
        (lambda: spoiled("adc", "power", value=0.002), "adc.power must be a number and a unit .* got 0.002"),
        (lambda: spoiled("adc", "power", value="2 mw"), r"adc.power must be a number and a unit \(W, mW.* got '2 mw'"),
        (lambda: spoiled("adc", "power", value="two mW"), "adc.power must be a number and a unit .* got 'two mW'"),
        (lambda: spoiled("adc", "power", value="0 W"), "adc.power must be more than zero, got '0 W'"),
        (lambda: spoiled("adc", "power", value="-1 W"), "adc.power must be more than zero, got '-1 W'"),
        (lambda: spoiled("adc", "power", value="nan W"), "adc.power must be more than zero, got 'nan W'"),
        (lambda: spoiled("tile", "bit_energy", value="-1 J/bit"), "tile.bit_energy must be zero or more"),
        (lambda: spoiled("adc", "bits", value=0), "adc.bits must be at least 1, got 0"),
        (lambda: spoiled("adc", "bits", value="8"), "adc.bits must be a whole number, got '8'"),
        (lambda: spoiled("adc", "kind", value="flash"), "adc.kind must be one of 'sar', 'ramp', got 'flash'"),
        (lambda: spoiled("crossbar", "polarity", value=3), "crossbar.polarity must be one of 1, 2, got 3"),
        (lambda: spoiled("crossbar", "packing", value="tight"), "crossbar.packing must be one of"),
        (lambda: spoiled("crossbar", "rows", value=0), "crossbar.rows must be at least 1, got 0"),
        (lambda: spoiled("buffer", "area", value="1 mm2"), "buffer.area must be a list of quantities in m2"),
        (lambda: spoiled("buffer", "area", value=["1 mm2"]), "buffer.area must have 9 values, .* got 1"),
        (lambda: spoiled("buffer", "area", value=["1 mm2", 3]), "buffer.area must be a number and a unit .* got 3"),
        (lambda: spoiled("buffer", "capacity", value=["4 KB"] * 9), "buffer.capacity must ascend"),
        (lambda: data() | {"rules": "neurosim"}, "rules must be one of 'events', 'mnsim', got 'neurosim'"),
        (lambda: data() | {"reuse": {"value": "yes", "kind": "assumed", "source": "epimlib"}}, "reuse must be one of"),
        (lambda: data() | {"sources": ["isaac"]}, "sources must be a mapping"),
        (lambda: data() | {"name": ""}, "name of a hardware description must be a text, got ''"),
        (lambda: data() | {"adc": 8}, "adc must be a mapping, got int"),
        (lambda: data() | {"adc": data()["adc"] | {"bits": 8}}, "adc.bits must be a mapping, got int"),
        (lambda: [1], "a hardware description must be a mapping, got list"),
    ],
)
def test_a_wrong_description_is_one_clear_sentence(spoil, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        Hardware.from_dict(spoil())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crossbar.row": 128}, r"unknown hardware value 'crossbar.row'; did you mean 'crossbar.rows'\?"),
        ({"adc.bits": 0}, "adc.bits must be at least 1, got 0"),
        ({"adc.power": "2 GHz"}, "adc.power must have one of the units W"),
        ({"adc.power": -1}, "adc.power must be more than zero, got '-1.0 W'"),
        ({"adc.power": True}, "adc.power must be a number and a unit"),
        ({"adc.power": math.inf}, "adc.power must be more than zero, got 'inf W'"),
        ({"rules": "none"}, "rules must be one of"),
    ],
)
def test_a_wrong_change_is_one_clear_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        Hardware.preset("default").replace(changes)


def test_unknown_presets_and_files_that_are_no_yaml():
    with pytest.raises(ValueError, match=r"unknown preset 'mnsim-2023'; did you mean 'mnsim-202[14]'\?"):
        Hardware.preset("mnsim-2023")
    with pytest.raises(ValueError, match="hardware description is not YAML") as error:
        Hardware.from_yaml("name: [default")
    assert "\n" not in str(error.value)


def test_a_buffer_needs_a_value_for_each_macro():
    with pytest.raises(ValueError, match=r"buffer.leakage must have 1 values, .* got 2"):
        Buffer(64, 1e-9, (8192.0,), (1e-9,), (1e-12,), (1e-12,), (0.0, 0.0))
