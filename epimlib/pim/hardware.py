"""Hardware description: what the mapping needs of a crossbar."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from epimlib._checks import keys, nearest, one_of, positive


@dataclass(frozen=True)
class Crossbar:
    """A resistive crossbar and how weights are laid out on it."""

    rows: int
    """Word lines of one crossbar."""
    cols: int
    """Bit lines of one crossbar."""
    cell_bits: int
    """Bits that one cell stores."""
    polarity: int
    """2: one crossbar for positive and one for negative weights; 1: offset encoding on a single crossbar."""
    packing: str
    """``"channel"``: the rows of a channel's window stay on one crossbar; ``"dense"``: rows fill it without gaps."""

    def __post_init__(self) -> None:
        for field in ("rows", "cols", "cell_bits"):
            positive(f"crossbar.{field}", getattr(self, field))
        one_of("crossbar.polarity", self.polarity, [1, 2])
        one_of("crossbar.packing", self.packing, ["channel", "dense"])


@dataclass(frozen=True)
class Hardware:
    """A processing-in-memory accelerator. Build one from a preset and change what differs."""

    name: str
    crossbar: Crossbar

    @classmethod
    def preset(cls, name: str) -> "Hardware":
        """Return a stored description, such as ``"default"``."""
        folder = files("epimlib.pim") / "presets"
        stored = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
        if name not in stored:
            raise ValueError(f"unknown preset {name!r}; {nearest(name, stored)}")
        return cls.from_dict(yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")))

    def replace(self, changes: Mapping[str, Any]) -> "Hardware":
        """Return a copy with some values changed, by dotted name: ``{"crossbar.rows": 128}``."""
        data = self.to_dict()
        allowed = [f"crossbar.{field}" for field in data["crossbar"]]
        for name, value in changes.items():
            if name not in allowed:
                raise ValueError(f"unknown hardware value {name!r}; {nearest(name, allowed)}")
            data["crossbar"][name.split(".")[1]] = value
        return self.from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Hardware":
        """Return the hardware of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        keys("a hardware description", data, ["name", "crossbar"])
        fields = [field.name for field in dataclasses.fields(Crossbar)]
        return cls(data["name"], Crossbar(**keys("crossbar", data["crossbar"], fields)))
