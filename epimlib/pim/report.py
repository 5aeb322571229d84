"""What a network costs on an accelerator: the result of an evaluation."""

import dataclasses
import html
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from epimlib._checks import keys
from epimlib.pim import cost, mnsim
from epimlib.pim.hardware import Hardware

if TYPE_CHECKING:
    import pandas as pd

COUNTED = {"events": cost.COUNTED, "mnsim": mnsim.COUNTED}


@dataclasses.dataclass(frozen=True)
class CostReport:
    """Latency, energy and area of one image on one accelerator, layer by layer and component by component.

    Reports of parts add up: ``a + b`` runs ``b`` after ``a``, each on crossbars of its own.
    """

    workload: str
    input_size: tuple[int, int, int]
    macs: int
    """Multiply-accumulate operations of the dense network."""
    hardware: Hardware
    dense: bool
    """Whether no layer is an epitome."""
    bits: tuple[int, ...]
    """Bits of the weights that are in use, sign included."""
    activation_bits: int
    baseline_bits: int
    """Bits of a weight of the dense baseline of `factor`."""
    baseline_crossbars: int
    """Crossbars of the dense network with weights of ``baseline_bits``."""
    pipelined: bool
    latency: float
    """From the first input to the last output [s]."""
    layers: tuple[cost.LayerCost, ...]

    @property
    def energy(self) -> float:
        """Of one image [J]."""
        return math.fsum(value for layer in self.layers for value in layer.energy.values())

    @property
    def area(self) -> float:
        """Of all layers [m^2]."""
        return math.fsum(value for layer in self.layers for value in layer.area.values())

    @property
    def static_power(self) -> float:
        """Leakage if every layer were powered at once [W]."""
        return math.fsum(layer.leakage for layer in self.layers)

    @property
    def crossbars(self) -> int:
        """Crossbars of all layers, those of both signs."""
        return sum(layer.crossbars for layer in self.layers)

    @property
    def factor(self) -> float:
        """How many times fewer crossbars than the dense baseline."""
        return self.baseline_crossbars / self.crossbars

    @property
    def utilization(self) -> float:
        """Share of the cells of all crossbars that hold a part of a weight."""
        return math.fsum(layer.utilization * layer.crossbars for layer in self.layers) / self.crossbars

    @property
    def counts(self) -> dict[str, int]:
        """How often each action happens, all layers together."""
        total: Counter[str] = Counter()
        for layer in self.layers:
            total.update(layer.counts)
        return dict(total)

    def by_layer(self) -> "pd.DataFrame":
        """Return one row per layer."""
        import pandas as pd

        columns = ["layer", "kind", "crossbars", "utilization", "latency [s]", "start [s]", "finish [s]"]
        columns += ["energy [J]", "area [m^2]", "leakage [W]"]
        rows = [
            (c.name, c.kind, c.crossbars, c.utilization, c.latency, c.start, c.finish, *c.sums[1:3], c.leakage)
            for c in self.layers
        ]
        return pd.DataFrame(rows, columns=columns).set_index("layer")

    def by_component(self) -> "pd.DataFrame":
        """Return one row per component: the busy time of all layers, energy and area, and their shares."""
        import pandas as pd

        columns = {"busy [s]": "time", "energy [J]": "energy", "area [m^2]": "area"}
        total: dict[str, dict[str, float]] = {}
        for layer in self.layers:
            for column, part in columns.items():
                for name, value in getattr(layer, part).items():
                    total.setdefault(name, dict.fromkeys(columns, 0.0))[column] += value
        frame = pd.DataFrame.from_dict(total, orient="index", columns=list(columns)).rename_axis("component")
        frame["share of energy"] = frame["energy [J]"] / frame["energy [J]"].sum()
        frame["share of area"] = frame["area [m^2]"] / frame["area [m^2]"].sum()
        return frame

    def totals(self) -> "pd.DataFrame":
        """Return the totals in the units of daily use."""
        import pandas as pd

        rows = {
            "latency [ms]": self.latency * 1e3,
            "energy [mJ]": self.energy * 1e3,
            "area [mm^2]": self.area * 1e6,
            "static power [W]": self.static_power,
            "crossbars": self.crossbars,
            f"times fewer than dense with {self.baseline_bits} bits": self.factor,
            "utilization": self.utilization,
        }
        return pd.DataFrame({"value": rows}).rename_axis("total")

    def __add__(self, other: "CostReport") -> "CostReport":
        if not isinstance(other, CostReport):
            return NotImplemented
        for name in ("hardware", "activation_bits", "baseline_bits", "pipelined"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"reports that add up must have the same {name}")
        after = self.latency
        shifted = [dataclasses.replace(c, start=c.start + after, finish=c.finish + after) for c in other.layers]
        return dataclasses.replace(
            self,
            workload=f"{self.workload} + {other.workload}",
            macs=self.macs + other.macs,
            dense=self.dense and other.dense,
            bits=tuple(sorted({*self.bits, *other.bits})),
            baseline_crossbars=self.baseline_crossbars + other.baseline_crossbars,
            latency=self.latency + other.latency,
            layers=(*self.layers, *shifted),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads, the hardware included."""
        layers = [dict(vars(layer)) for layer in self.layers]
        sizes = {"input_size": list(self.input_size), "bits": list(self.bits)}
        return vars(self) | sizes | {"hardware": self.hardware.to_dict(), "layers": layers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CostReport":
        """Return the report of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        data = dict(keys("a cost report", data, cls.__dataclass_fields__))
        fields = cost.LayerCost.__dataclass_fields__
        layers = tuple(cost.LayerCost(**keys("a layer of a cost report", layer, fields)) for layer in data["layers"])
        sizes = {"input_size": tuple(data["input_size"]), "bits": tuple(data["bits"])}
        return cls(**data | sizes | {"hardware": Hardware.from_dict(data["hardware"]), "layers": layers})

    @property
    def _title(self) -> str:
        size = "x".join(map(str, self.input_size))
        order = "layer-pipelined" if self.pipelined else "layer after layer"
        return (
            f"{self.workload} at {size} on {self.hardware.name}, {'dense' if self.dense else 'epitomes'}, "
            f"weights {' and '.join(map(str, self.bits))} bits, activations {self.activation_bits} bits, {order}"
        )

    def __str__(self) -> str:
        tables = [self.totals().to_string(float_format="{:.4g}".format)]
        tables.append(self.by_component().to_string(float_format="{:.3g}".format))
        return "\n\n".join([self._title, *tables, COUNTED[self.hardware.rules]])

    def _repr_html_(self) -> str:
        totals = self.totals().to_html(float_format="{:.4g}".format)
        parts = self.by_component().to_html(float_format="{:.3g}".format)
        return f"<p><strong>{html.escape(self._title)}</strong></p>{totals}{parts}<p>{COUNTED[self.hardware.rules]}</p>"


def compare(a: CostReport, b: CostReport) -> "pd.DataFrame":
    """Return the totals of two reports side by side, and how many times less ``b`` costs than ``a``.

    Raises:
        ValueError: if the two differ in what must be equal for the comparison to mean anything: workload, input
            size, precision of the baseline, packing convention. Two dense reports are two baselines, so they
            must have equally many bits.
    """
    import pandas as pd

    checks = {
        "workload": (a.workload, b.workload),
        "input size": (a.input_size, b.input_size),
        "workload (multiply-accumulates of the dense network, which the head's classes change)": (a.macs, b.macs),
        "precision of the baseline (bits of a dense weight)": (a.baseline_bits, b.baseline_bits),
        "packing convention": (a.hardware.crossbar.packing, b.hardware.crossbar.packing),
    }
    if a.dense and b.dense:
        checks["precision of the baseline (both are dense; bits of their weights)"] = (a.bits, b.bits)
    for what, (left, right) in checks.items():
        if left != right:
            raise ValueError(f"reports cannot be compared: they differ in {what}, {left} and {right}")
    frame = pd.concat([report.totals()["value"] for report in (a, b)], axis=1, keys=["a", "b"])
    frame["a / b"] = frame["a"] / frame["b"]
    return frame
