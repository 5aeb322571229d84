"""Hardware descriptions: every constant with its value, unit, source and kind.

A description is a tree of frozen dataclasses in SI units. It is read from a YAML preset in which every constant
says where it comes from, and it can be changed by dotted names::

    Hardware.preset("default").replace({"crossbar.rows": 128, "adc.bits": 6})

The hierarchy is chip > tile > processing element > group > crossbar (a pair of crossbars with polarity 2). A tile
serves one layer.
"""

import bisect
import dataclasses
import functools
import math
import numbers
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epimlib._checks import fields_of, instance, is_file, keys, load, nearest, one_of, parse_yaml, positive, write_yaml

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "paper": "printed in the named publication",
    "datasheet": "measured or specified for a component",
    "simulator": "default of the named simulator",
    "derived": "computed from values of the other kinds; the note says how",
    "assumed": "our choice; the note says why",
}

_UNITS = {
    "s": {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12},
    "Hz": {"Hz": 1, "MHz": 1e6, "GHz": 1e9},
    "J": {"J": 1, "nJ": 1e-9, "pJ": 1e-12, "fJ": 1e-15},
    "W": {"W": 1, "mW": 1e-3, "uW": 1e-6, "nW": 1e-9},
    "m2": {"m2": 1, "mm2": 1e-6, "um2": 1e-12},
    "bit": {"bit": 1, "KB": 8192},
    "bit/s": {"bit/s": 1, "Gb/s": 1e9},
    "J/bit": {"J/bit": 1, "pJ/bit": 1e-12},
    "W/bit": {"W/bit": 1, "nW/bit": 1e-9},
    "m2/bit": {"m2/bit": 1, "um2/bit": 1e-12},
}


def _si(unit: str, zero: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """Return a field that holds a quantity of this SI unit; ``zero`` says whether it may be zero."""
    return dataclasses.field(default=default, metadata={"unit": unit, "zero": zero})


@dataclass(frozen=True)
class Crossbar:
    """The size of a crossbar and how weights are laid out on it."""

    rows: int
    """Word lines of one crossbar."""
    cols: int
    """Bit lines of one crossbar."""
    cell_bits: int
    """Bits that one cell stores."""
    polarity: int
    """With 2, one crossbar holds positive and one negative weights; with 1, a single one holds offset weights."""
    packing: str
    """With ``"channel"`` the rows of a channel's window stay on one crossbar, with ``"dense"`` rows leave no gaps."""

    def __post_init__(self) -> None:
        for field, most in (("rows", None), ("cols", None), ("cell_bits", 16)):
            positive(f"crossbar.{field}", getattr(self, field), maximum=most)
        one_of("crossbar.polarity", self.polarity, [1, 2])
        one_of("crossbar.packing", self.packing, ["channel", "dense"])


@dataclass(frozen=True)
class Array:
    """What the cells of a crossbar cost."""

    subarray_rows: int
    """Word lines of one subarray. Read by the MNSIM rules only, where each subarray has its own converters."""
    cell_area: float = _si("m2")
    driver_area: float = _si("m2", zero=True)
    """Word line driver and the rest of the periphery, per word line."""
    cell_power: float = _si("W")
    """Average power of a cell on a driven word line and a sensed bit line while it is read."""
    read_latency: float = _si("s")
    """From the voltages on the word lines to settled currents on the bit lines."""


@dataclass(frozen=True)
class Dac:
    """Digital-to-analog converters on the word lines. A pair of crossbars shares its DACs."""

    bits: int
    """Input bits that are applied at once."""
    per_crossbar: int
    """DACs of one crossbar (pair); with fewer than rows, the rows are read in groups, one after the other."""
    power: float = _si("W")
    rate: float = _si("Hz")
    """Conversions per second."""
    area: float = _si("m2")


@dataclass(frozen=True)
class Adc:
    """Analog-to-digital converters on the bit lines. A pair of crossbars is subtracted before its ADCs.

    Power and area are those of a converter of these bits and this rate: who changes one must change the others.
    """

    bits: int
    """Resolution."""
    per_crossbar: int
    """ADCs of one crossbar (pair); with fewer than columns, they take turns."""
    kind: str
    """A conversion of ``"sar"`` takes one period of the rate, one of ``"ramp"`` ``2^bits``."""
    power: float = _si("W")
    rate: float = _si("Hz")
    """Samples per second."""
    area: float = _si("m2")
    accumulate: str = "read"
    """What is converted: ``"read"`` every read, whose codes are added digitally; ``"power"`` an analog sum of the reads
    that are worth the same power of two; ``"output"`` one analog sum of all cycles and bit slices."""
    sum_energy: float = _si("J", zero=True, default=0.0)
    """Of one analog addition of a read to such a sum."""

    def __post_init__(self) -> None:
        one_of("adc.kind", self.kind, ["sar", "ramp"])
        one_of("adc.accumulate", self.accumulate, ["read", "power", "output"])

    def conversions(self, cycles: int, slices: int, dac_bits: int, cell_bits: int, signed: bool = False) -> int:
        """Return the conversions of a column in one row group, over all input cycles and bit slices of one position.

        A read of cycle ``t`` and slice ``k`` is worth ``2^(t dac_bits + k cell_bits)``. With ``"power"`` a conversion
        serves all reads of one exponent. Those of a sign's cycle, the last, count negative and have sums of their own::

            8 cycles, 8 slices, one bit each         "read" 8 * 8    "power" exponents 0 to 14: 15    "output" 1

        Args:
            cycles: of an input, that of its sign included.
            slices: of a weight.
            dac_bits: input bits of a cycle.
            cell_bits: weight bits of a slice.
            signed: whether the last cycle is a sign's.
        """
        if self.accumulate == "read":
            return cycles * slices
        if self.accumulate == "output":
            return 1
        exponents = {t * dac_bits + k * cell_bits for t in range(cycles - signed) for k in range(slices)}
        return len(exponents) + signed * slices


@dataclass(frozen=True)
class Digital:
    """The clock, and the multiplexers between converters and crossbar."""

    period: float = _si("s")
    """Clock period of the digital logic; one action of a `Unit` takes one."""
    decoder_latency: float = _si("s", zero=True)
    """Of one stage of the demultiplexer between DACs and word lines."""
    mux_latency: float = _si("s", zero=True)
    """Of one stage of the multiplexer between bit lines and ADCs."""
    transistor_area: float = _si("m2", zero=True)
    """Of one transistor of these multiplexers."""
    transistor_power: float = _si("W", zero=True)
    """Of one transistor of these multiplexers."""

    @staticmethod
    def stages(ratio: int) -> int:
        """Return the stages of a multiplexer as MNSIM counts them: one more than the base-8 digits of its ratio."""
        return 1 + len(f"{ratio:o}")

    @staticmethod
    def transistors(ratio: int) -> int:
        """Return the transistors of a multiplexer: 8 for 2:1, three times as many for each doubling, up to 64:1."""
        return 8 * 3 ** (min(max(math.ceil(math.log2(ratio)), 1), 6) - 1)


@dataclass(frozen=True)
class Unit:
    """A digital unit that does one action per clock period."""

    area: float = _si("m2")
    power: float = _si("W")


@dataclass(frozen=True)
class Buffer:
    """SRAM or eDRAM macros by capacity; a buffer is the smallest macro that holds what it must, or the largest."""

    port_bits: int
    """Bits of one access."""
    access_time: float = _si("s")
    capacity: tuple[float, ...] = _si("bit")
    """Of the macros, ascending. The four values below belong to the macros in the same order."""
    area: tuple[float, ...] = _si("m2")
    read_energy: tuple[float, ...] = _si("J")
    """Of one access."""
    write_energy: tuple[float, ...] = _si("J")
    """Of one access."""
    leakage: tuple[float, ...] = _si("W", zero=True)

    def __post_init__(self) -> None:
        for field in ("area", "read_energy", "write_energy", "leakage"):
            given, wanted = len(getattr(self, field)), len(self.capacity)
            if given != wanted:
                raise ValueError(f"buffer.{field} must have {wanted} values, one for each buffer.capacity, got {given}")
        if list(self.capacity) != sorted(set(self.capacity)):
            raise ValueError(f"buffer.capacity must ascend, got {self.capacity}")

    def macro(self, bits: float) -> int:
        """Return the index of the smallest macro that holds so many bits, or of the largest."""
        return min(bisect.bisect_left(self.capacity, bits), len(self.capacity) - 1)


@dataclass(frozen=True)
class Table:
    """The memory that holds the index tables of epitomes."""

    area: float = _si("m2/bit")
    read_energy: float = _si("J/bit")
    leakage: float = _si("W/bit", zero=True)


@dataclass(frozen=True)
class Pooling:
    """The pooling module of a tile."""

    units: int
    """Channels that are pooled at once."""
    window: int
    """Window elements that are pooled at once."""
    area: float = _si("m2")
    power: float = _si("W")
    latency: float = _si("s")
    """Of ``units`` channels x ``window`` elements."""


@dataclass(frozen=True)
class Tile:
    """What processing elements and tiles consist of."""

    groups: int
    """Crossbar groups (a crossbar, or a pair of them) of one processing element."""
    elements: int
    """Processing elements of one tile."""
    bandwidth: float = _si("bit/s")
    """Between the processing elements of a tile."""
    bit_energy: float = _si("J/bit", zero=True)
    """Of one bit between buffers and processing elements."""


@dataclass(frozen=True)
class Chip:
    """The grid of tiles and its network."""

    rows: int
    cols: int
    hops: int
    """Links between a layer and the next. The MNSIM rules place the tiles and count the links themselves."""
    bandwidth: float = _si("bit/s")
    """Of one link between neighbouring tiles."""
    hop_energy: float = _si("J/bit", zero=True)
    """Of one bit over one link."""
    router_area: float = _si("m2", zero=True)
    """Per tile."""


@dataclass(frozen=True)
class Constant:
    """One constant of a preset, as it is written there."""

    name: str
    """Dotted name, such as ``"adc.power"``."""
    value: Any
    """Number, text, or number with unit, such as ``"2 mW"``; a list of these for the macros of `Buffer`."""
    kind: str
    """One of `KINDS`."""
    source: str
    """Publication, simulator or person that the value comes from."""
    note: str = ""


@dataclass(frozen=True)
class Hardware:
    """A processing-in-memory accelerator. Build one from a preset and change what differs.

    Descriptions are equal if all their values are; ``name`` and where the values come from do not count.
    """

    name: str = dataclasses.field(compare=False)
    rules: str
    """With ``"events"`` the cost is counted by our own rules, with ``"mnsim"`` as the simulator MNSIM 2.0 does."""
    reuse: bool
    """Whether equal output blocks are computed once and copied (feature-map reuse)."""
    crossbar: Crossbar
    array: Array
    dac: Dac
    adc: Adc
    digital: Digital
    shift_add: Unit
    """Shift-and-add (a shift register) behind every ADC."""
    register: Unit
    """Register of every DAC and every ADC."""
    adder: Unit
    """Adder of the tree over row blocks and of element-wise units (of eight bits by the rules of MNSIM)."""
    joint: Unit
    """Joint module, which accumulates the partial results of successive rounds, or of processing elements."""
    buffer: Buffer
    table: Table
    pooling: Pooling
    tile: Tile
    chip: Chip
    provenance: tuple[Constant, ...] = dataclasses.field(compare=False, repr=False)
    """Every constant as written, with its source."""

    @classmethod
    @functools.cache
    def preset(cls, name: str) -> "Hardware":
        """Return a stored description: ``"default"``, ``"isaac"``, ``"mnsim-2024"`` or ``"mnsim-2021"``."""
        folder = files("epimlib.pim") / "presets"
        stored = [file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")]
        if name not in stored:
            raise ValueError(f"unknown preset {name!r}; {nearest(name, stored)}")
        return cls.from_yaml((folder / f"{name}.yaml").read_text(encoding="utf-8"))

    @classmethod
    def load(cls, name: str | Path) -> "Hardware":
        """Return a stored description, as `preset` does, or that of a YAML (or JSON) file in the form of the presets.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the preset is unknown, or the file is truncated or no hardware description.
        """
        return load(name, "hardware description", cls.from_dict) if is_file(name) else cls.preset(name)

    def save(self, path: str | Path) -> None:
        """Write the description as a YAML file, whole or not at all; ``load`` reads it."""
        write_yaml(path, self.to_dict())

    @classmethod
    def from_yaml(cls, text: str) -> "Hardware":
        """Return the description of a YAML text in the form of the presets."""
        try:
            data = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"hardware description is not YAML: {error}") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Hardware":
        """Return the hardware of a preset or of ``to_dict``.

        Raises:
            ValueError: if a key is unknown or missing, a value has a unit of another dimension or is out of range,
                or a constant names no source.
        """
        keys("a hardware description", data, ["name", "rules", "sources", "reuse", *_SECTIONS])
        if not isinstance(data["sources"], Mapping):
            raise ValueError(f"sources must be a mapping from a short name to a text, got {data['sources']!r}")
        entries = {"reuse": data["reuse"]}
        for section, cls_ in _SECTIONS.items():
            fields = fields_of(section, data[section], cls_)
            entries |= {f"{section}.{field}": entry for field, entry in fields.items()}
        constants = [_constant(name, entry, data["sources"]) for name, entry in entries.items()]
        return cls._build(data["name"], data["rules"], constants)

    @classmethod
    def _build(cls, name: str, rules: str, constants: list[Constant]) -> "Hardware":
        if not isinstance(name, str) or not name:
            raise ValueError(f"name of a hardware description must be a text, got {name!r}")
        values = {c.name: _value(c) for c in constants}
        one_of("rules", rules, ["events", "mnsim"])
        sections = {
            section: cls_(
                **{f: values[f"{section}.{f}"] for f in cls_.__dataclass_fields__ if f"{section}.{f}" in values}
            )
            for section, cls_ in _SECTIONS.items()
        }
        return cls(name, rules, values["reuse"], **sections, provenance=tuple(constants))

    def replace(self, changes: Mapping[str, Any]) -> "Hardware":
        """Return a copy with some values changed, by dotted name: ``{"crossbar.rows": 128, "adc.rate": "1 GHz"}``.

        A number is in SI units. ``"rules"`` and ``"reuse"`` can be changed too. A changed constant is of kind
        "assumed" from then on.
        """
        constants = {constant.name: constant for constant in self.provenance}
        changes = dict(changes)
        rules = changes.pop("rules", self.rules)
        for name, value in changes.items():
            if name not in _FIELDS:
                raise ValueError(f"unknown hardware value {name!r}; {nearest(name, [*_FIELDS, 'rules'])}")
            note = f"{constants[name].value if name in constants else 'not given'} in {self.name}"
            value = _with_unit(value, _FIELDS[name].metadata.get("unit"))
            constants[name] = Constant(name, value, "assumed", "changed by the user", note)
        return self._build(self.name, rules, list(constants.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads, every constant with its source."""
        texts = list(dict.fromkeys(constant.source for constant in self.provenance))
        sources = {f"s{number}": text for number, text in enumerate(texts)}
        data: dict[str, Any] = {"name": self.name, "rules": self.rules, "sources": sources}
        for constant in self.provenance:
            entry = {"value": constant.value, "kind": constant.kind, "source": f"s{texts.index(constant.source)}"}
            entry |= {"note": constant.note} if constant.note else {}
            section, _, field = constant.name.rpartition(".")
            (data.setdefault(section, {}) if section else data)[field] = entry
        return data

    def constants(self) -> "pd.DataFrame":
        """Return one row per constant: value with unit, kind, source, note."""
        import pandas as pd

        rows = [
            (c.name, ", ".join(c.value) if isinstance(c.value, list) else str(c.value), c.kind, c.source, c.note)
            for c in self.provenance
        ]
        return pd.DataFrame(rows, columns=["constant", "value", "kind", "source", "note"]).set_index("constant")

    def __str__(self) -> str:
        return f"{self.name}, rules {self.rules}\n{self.constants()[['value', 'kind']].to_string()}"

    def _repr_html_(self) -> str:
        return self.constants().to_html()


def check_hardware(hardware: Any) -> Hardware:
    """Return the hardware, or raise ``TypeError`` if it is something else, such as the name of a preset."""
    return instance("hardware", hardware, Hardware, "Hardware.preset")


_SECTIONS = {f.name: f.type for f in dataclasses.fields(Hardware) if dataclasses.is_dataclass(f.type)}
_FIELDS = {f"{section}.{f.name}": f for section, cls in _SECTIONS.items() for f in dataclasses.fields(cls)}
_FIELDS["reuse"] = Hardware.__dataclass_fields__["reuse"]


def _constant(name: str, entry: Any, sources: Mapping[str, str]) -> Constant:
    keys(name, entry, ["value", "kind", "source"], ["note"])
    one_of(f"kind of {name}", entry["kind"], KINDS)
    if entry["source"] not in sources:
        raise ValueError(
            f"{name} names source {entry['source']!r}, which is not listed; {nearest(entry['source'], sources)}"
        )
    return Constant(name, entry["value"], entry["kind"], sources[entry["source"]], entry.get("note", ""))


def _value(constant: Constant) -> Any:
    """Return the checked value of a constant in SI units."""
    name, value, field = constant.name, constant.value, _FIELDS[constant.name]
    if field.type is int:
        return positive(name, value)
    if field.type is bool:
        return one_of(name, value, [True, False])
    if field.type is float:
        return _quantity(name, value, **field.metadata)
    if field.type is str:
        return value  # the section knows what is allowed
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of quantities in {field.metadata['unit']}, got {value!r}")
    return tuple(_quantity(name, element, **field.metadata) for element in value)


def _quantity(name: str, value: Any, unit: str, zero: bool) -> float:
    """Return a quantity such as ``"2 mW"`` in SI units."""
    allowed = ", ".join(_UNITS[unit])
    number, _, given = value.partition(" ") if isinstance(value, str) else ("", "", "")
    try:
        number = float(number) * ChainMap(*_UNITS.values())[given]
    except (KeyError, ValueError):
        raise ValueError(f"{name} must be a number and a unit ({allowed}), got {value!r}") from None
    if given not in _UNITS[unit]:
        raise ValueError(f"{name} must have one of the units {allowed}, got {value!r}")
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{name} must be {'zero or more' if zero else 'more than zero'}, got {value!r}")
    return number


def _with_unit(value: Any, unit: str | None) -> Any:
    """Return a bare SI number as it would be written in a preset."""
    if unit is None and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)  # JSON knows no integers of NumPy
    if unit is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return [_with_unit(element, unit) for element in value]
    return f"{float(value)!r} {unit}" if isinstance(value, numbers.Real) and not isinstance(value, bool) else value
