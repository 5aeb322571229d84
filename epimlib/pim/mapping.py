"""How many crossbars a network needs.

A layer's weight is a matrix of ``C_in * k_h * k_w`` word lines by ``C_out`` logical columns; an epitome is mapped
by its own matrix, not by the weight that is sampled from it. The matrix is cut into *blocks* of the size of one
crossbar. Every weight is cut into *bit slices* of as many bits as a cell stores, each on a crossbar of its own,
and with polarity 2 every slice takes a pair of crossbars::

    crossbars = blocks * slices * polarity
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from epimlib._checks import positive, same_layers
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Layer, Workload
from epimlib.pim.hardware import Crossbar, Hardware, check_hardware

if TYPE_CHECKING:
    import pandas as pd


class Packing(NamedTuple):
    """How the matrices of the groups of a layer lie on crossbars.

    What is mapped together is an *array*: one group, or several that share a crossbar, each with own rows and columns.
    Matrix row ``r`` of an array lies in row block ``r // usable``, on word line ``r % usable``.
    """

    usable: int
    """Rows of the matrix that one crossbar holds."""
    together: int
    """Groups in one array."""
    arrays: int
    row_blocks: int
    """Crossbar-sized blocks of one array, from the first word line to the last."""
    col_blocks: int
    """Crossbar-sized blocks of one array, from the first column to the last."""


def pack(groups: int, rows: int, cols: int, window: int, crossbar: Crossbar, layer: str | None = None) -> Packing:
    """Return where ``groups`` matrices of ``rows x cols`` lie, with ``window`` rows for each channel.

    Groups share a crossbar if it holds more than one; a group that does not fit one has crossbars of its own.

    Raises:
        ValueError: naming the layer if it is given; as `rows_in_use`.
    """
    usable = rows_in_use(window, crossbar, layer)
    fits = rows <= usable and cols <= crossbar.cols
    together = min(groups, crossbar.rows // rows, crossbar.cols // cols) if fits else 1
    row_blocks, col_blocks = math.ceil(rows / usable), math.ceil(cols / crossbar.cols)
    return Packing(usable, together, math.ceil(groups / together), row_blocks, col_blocks)


def rows_in_use(window: int, crossbar: Crossbar, layer: str | None = None) -> int:
    """Return how many rows of the layer's matrix one crossbar holds.

    With channel packing whole channels only, of ``window`` rows each; with dense packing as many as it has.

    Raises:
        ValueError: if a crossbar has fewer rows than one channel's window (channel packing).
    """
    if crossbar.packing == "dense":
        return crossbar.rows
    if window > crossbar.rows:
        channel = f"one channel of {layer!r}" if layer else "one channel"
        raise ValueError(f"crossbar.rows must hold the {window} rows of {channel}, got {crossbar.rows}")
    return crossbar.rows // window * window


class LayerMapping(NamedTuple):
    """Where the matrix of one layer lies. A grouped convolution has one such matrix per group."""

    name: str
    rows: int
    """Word lines that the matrix needs (of one group)."""
    cols: int
    """Logical columns that the matrix needs (of one group)."""
    groups: int
    packing: Packing
    slices: int
    """Bit slices of a weight."""
    crossbar: Crossbar

    @property
    def blocks(self) -> int:
        """Crossbar-sized blocks of the matrix, all groups together."""
        return self.packing.arrays * self.packing.row_blocks * self.packing.col_blocks

    @property
    def crossbars(self) -> int:
        """Crossbars: ``blocks * slices * polarity``."""
        return self.blocks * self.slices * self.crossbar.polarity

    @property
    def utilization(self) -> float:
        """Share of the cells of these crossbars that hold a part of a weight."""
        return self.groups * self.rows * self.cols / (self.blocks * self.crossbar.rows * self.crossbar.cols)


@dataclass(frozen=True)
class NetworkMapping:
    """The crossbars of a network: every layer with a weight is counted, and nothing else."""

    workload: str
    layers: tuple[LayerMapping, ...]

    @property
    def crossbars(self) -> int:
        """Crossbars of all layers."""
        return sum(layer.crossbars for layer in self.layers)

    @property
    def blocks(self) -> int:
        """Crossbar-sized blocks of all layers: the crossbars that one bit slice of one sign would need."""
        return sum(layer.blocks for layer in self.layers)

    @property
    def utilization(self) -> float:
        """Share of all cells that hold a part of a weight."""
        return math.fsum(layer.utilization * layer.crossbars for layer in self.layers) / self.crossbars

    def by_layer(self) -> "pd.DataFrame":
        """Return one row per layer."""
        import pandas as pd

        fields = ["name", "rows", "cols", "blocks", "slices", "crossbars", "utilization"]
        rows = [[getattr(layer, field) for field in fields] for layer in self.layers]
        names = ["layer", "word lines", "logical columns", "blocks", "bit slices", "crossbars", "utilization"]
        return pd.DataFrame(rows, columns=names).set_index("layer")

    def __str__(self) -> str:
        total = f"{self.workload}: {self.crossbars:,} crossbars in {self.blocks:,} blocks"
        return f"{total}, {self.utilization:.1%} of the cells in use\n{self.by_layer().to_string()}"

    def _repr_html_(self) -> str:
        return self.by_layer().to_html(float_format="{:.3f}".format)


def map_crossbars(
    workload: Workload,
    hardware: Hardware,
    design: Mapping[str, EpitomeSpec] | None = None,
    bits: int | Mapping[str, int] = 32,
) -> NetworkMapping:
    """Map a network onto crossbars.

    Args:
        workload: the network. Its head counts as it is; ``workload.with_classes(256)`` gives the convention in
            which a head fits one column block.
        hardware: crossbar size, bits per cell, polarity and packing are read.
        design: epitomes by layer name; layers that it does not name are dense.
        bits: of a weight, sign included; one number, or one for each layer by name.

    Raises:
        TypeError: if the workload or the hardware is something else: a model, a name.
        ValueError: if the design does not fit the workload, a layer has no bits, the bits leave nothing besides the
            sign, or a crossbar is smaller than one channel's window.
    """
    design = Design(design).check(workload)
    crossbar = check_hardware(hardware).crossbar
    slices = {name: bit_slices(width, crossbar) for name, width in layer_bits(workload, bits).items()}
    layers = [map_layer(layer, design.get(layer.name), crossbar, slices[layer.name]) for layer in workload.weighted]
    return NetworkMapping(workload.name, tuple(layers))


def layer_bits(workload: Workload, bits: int | Mapping[str, int]) -> dict[str, int]:
    """Return the bits of every weighted layer, in order, from one number or from one for each of them by name."""
    names = [layer.name for layer in workload.weighted]
    if not isinstance(bits, Mapping):
        return dict.fromkeys(names, positive("bits", bits))
    same_layers("bits", bits, names, repr(workload.name))
    return {name: positive(f"bits of {name!r}", bits[name]) for name in names}


def bit_slices(bits: int, crossbar: Crossbar) -> int:
    """Return the bit slices of a weight; with polarity 2 the sign is not stored in a cell."""
    stored = positive("bits", bits) - (crossbar.polarity == 2)
    if stored < 1:
        raise ValueError(f"bits must be at least 2 with crossbar.polarity 2, which keeps the sign apart, got {bits}")
    return math.ceil(stored / crossbar.cell_bits)


def map_layer(layer: Layer, spec: EpitomeSpec | None, crossbar: Crossbar, slices: int) -> LayerMapping:
    """Map one layer, dense (``spec`` None) or as an epitome."""
    out, inp, *window = spec.epitome if spec else layer.weight_shape
    groups = 1 if spec else layer.groups
    area = math.prod(window)
    rows, cols = inp * area, out // groups
    packing = pack(groups, rows, cols, area, crossbar, layer.name)
    return LayerMapping(layer.name, rows, cols, groups, packing, slices, crossbar)
