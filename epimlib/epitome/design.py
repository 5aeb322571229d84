"""A design: which layer of a network gets which epitome."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from epimlib._checks import keys, known_layers, load, positive, write_json
from epimlib.epitome.plan import EpitomeSpec, check_fit
from epimlib.epitome.workload import Layer, Workload, check_workload


class Design(Mapping[str, EpitomeSpec]):
    """An immutable mapping from layer name to `EpitomeSpec`; layers that it does not name stay dense.

    It is what a search returns, what a notebook takes and what a run record stores.

    Raises:
        TypeError: if it is given no mapping, or a value that is not an `EpitomeSpec`.
    """

    def __init__(self, layers: Mapping[str, EpitomeSpec] | None = None) -> None:
        if not isinstance(layers, Mapping | None):
            raise TypeError(f"design must be a mapping from layer name to EpitomeSpec, got {layers!r}")
        self._layers = dict(layers or {})
        for name, spec in self._layers.items():
            if not isinstance(spec, EpitomeSpec):
                raise TypeError(f"design of layer {name!r} must be an EpitomeSpec, got {spec!r}")

    def __getitem__(self, name: str) -> EpitomeSpec:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        return self._layers == other._layers if isinstance(other, Design) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._layers.items()))

    def __repr__(self) -> str:
        return f"Design({self._layers!r})"

    @classmethod
    def uniform(
        cls,
        workload: Workload,
        rows: int,
        cols: int,
        wrap: int | str = "full",
        family: str = "window",
        coefficients: str = "none",
    ) -> "Design":
        """Return epitomes of at most ``rows x cols`` for every layer that they make smaller.

        The arguments are those of `EpitomeSpec.for_crossbars`. Layers that would not become smaller, grouped and
        depthwise convolutions, and layers of whose window not even one channel fits, stay dense.
        """
        positive("rows", rows)
        layers = check_workload(workload).weighted
        specs = {layer.name: uniform_spec(layer, rows, cols, wrap, family, coefficients) for layer in layers}
        return cls({name: spec for name, spec in specs.items() if spec is not None})

    def check(self, workload: Workload) -> "Design":
        """Return the design if it fits the workload.

        Raises:
            TypeError: if it is no workload.
            ValueError: if it names a layer that the workload lacks, or whose weight has another shape or groups.
        """
        layers = {layer.name: layer for layer in check_workload(workload).weighted}
        known_layers("design names", self, layers, repr(workload.name))
        for name, spec in self._layers.items():
            check_fit(f"design of layer {name!r}", spec, layers[name].weight_shape, layers[name].groups)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads."""
        return {"layers": {name: spec.to_dict() for name, spec in self._layers.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Design":
        """Return the design of ``to_dict``; unknown or missing keys raise ``ValueError``."""
        layers = keys("a design", data, ["layers"])["layers"]
        if not isinstance(layers, Mapping):
            raise ValueError(f"layers of a design must be a mapping, got {type(layers).__name__}")
        return cls({name: EpitomeSpec.from_dict(spec) for name, spec in layers.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Design":
        """Return the design of a JSON file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is truncated or not a design.
        """
        return load(path, "design", cls.from_dict)

    def save(self, path: str | Path) -> None:
        """Write the design as a JSON file, whole or not at all; ``load`` reads it."""
        write_json(path, self.to_dict())

    def __str__(self) -> str:
        lines = [
            f"{name}: E {spec.epitome}, wrap {spec.wrap}"
            + (f", coefficients {spec.coefficients!r}" if spec.weighed else "")
            for name, spec in self._layers.items()
        ]
        return "\n".join(lines) or "every layer dense"


def uniform_spec(
    layer: Layer, rows: int, cols: int, wrap: int | str, family: str, coefficients: str = "none"
) -> EpitomeSpec | None:
    """Return the epitome of one layer in a uniform design, or None where it stays dense."""
    if layer.groups != 1 or math.prod(k + (family == "window") for k in layer.kernel_size) > rows:
        return None
    *shape, _, _ = layer.weight_shape
    spec = EpitomeSpec.for_crossbars(*shape, layer.kernel_size, rows, cols, wrap, family, coefficients)
    return spec if spec.compression > 1 else None
