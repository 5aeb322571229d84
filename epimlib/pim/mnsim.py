"""The rules of MNSIM 2.0: our constants, counted as that simulator counts them.

An independent simulator is the only check from outside that a cost model has. With the presets ``mnsim-2024`` and
``mnsim-2021`` these rules reproduce MNSIM 2.0 (github.com/thu-nics/MNSIM-2.0, commit ca39ccb), its defects included;
`epimlib.pim.cost` does otherwise where they are defects. The simulator knows dense networks only.

Symbols: ``b`` bits of a weight (one less with polarity 2), ``g`` groups of a processing element (PE), ``T`` clock
period, ``n`` analog steps of one output position.

- *Mapping.* Every bit of a weight has a crossbar of its own, whatever a cell stores. A PE holds ``g`` bits of one
  block, ``PE = ceil(b / g) * column blocks * row blocks``; a tile holds four and serves one layer. Tiles lie in layer
  order on L-shaped shells that grow from a corner of the grid. There: ``TCG`` in
  Mapping_Model/Tile_connection_graph.py.
- *Latency* of one output position: write and read of the line buffer, ``n`` times DAC, crossbar and ADC, registers
  and multiplexers, joint modules of the tile, output buffer, merging of the layer's tiles, transfer to the next layer,
  one after the other; ``n = ceil(b_x / b_DAC) ceil(rows / DACs) ceil(columns / ADCs)``. There: ``Model_latency`` in
  Latency_Model/Model_latency.py, and ``PE_latency_analysis``, ``tile_latency_analysis`` and
  ``pooling_latency_analysis`` in the files of these names beside it.
- *Energy*: power of each component times the time that it has in this sum; a partly filled tile counts as full. There:
  ``Model_inference_power`` in Power_Model/Model_inference_power.py, ``Model_energy`` in Energy_Model/Model_energy.py.
- *Area*: tiles in use times the area of a tile. There: ``Model_area`` in Area_Model/Model_Area.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from epimlib.epitome.design import Design
from epimlib.epitome.workload import Layer, Workload
from epimlib.pim.cost import LayerCost
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import bit_slices
from epimlib.pim.pipeline import finish_times, pipeline

COUNTED = (
    "Counted as by MNSIM 2.0: crossbars with converters and digital logic, buffers, pooling and the time of "
    "transfers and residual sums. Not counted: the energy of these, programming of the cells, off-chip memory."
)
KINDS = ("conv", "linear", "pool", "add")
SUM_TIME = 10e-9  # of a residual sum, a constant of the simulator [s]


def layer_costs(
    workload: Workload,
    hardware: Hardware,
    design: Design,
    bits: Mapping[str, int],
    activation_bits: int,
    pipelined: bool,
) -> list[LayerCost]:
    """Return what every layer of a dense network costs by the rules of MNSIM 2.0.

    Args:
        workload: convolutions, linear layers on one vector, pooling and residual sums.
        hardware: with the constants of the simulator.
        design: without any epitome.
        bits: of the weights of every weighted layer, sign included.
        activation_bits: of inputs and outputs.
        pipelined: whether a layer starts when its first window is there, or when the first of the layers that it
            reads is finished.

    Raises:
        ValueError: if the simulator has no rule for a layer or an epitome, not every read is converted, or the grid has
            too few tiles.
    """
    if design:
        raise ValueError(
            f"rules 'mnsim' evaluate dense networks only, got a design with {len(design)} epitomes; "
            "choose rules 'events'"
        )
    if hardware.adc.accumulate != "read":
        raise ValueError(
            f"rules 'mnsim' convert every read, got adc.accumulate {hardware.adc.accumulate!r}; choose rules 'events'"
        )
    chip = _Chip(hardware, activation_bits)
    placed = _place(workload, hardware, bits)
    chip.size_buffers(placed)
    times = [chip.times(layer, pipelined) for layer in placed]
    totals = [sum(time.values()).reshape(-1) for time in times]
    spans = pipeline(workload, totals) if pipelined else _one_by_one(workload, totals)
    return [
        chip.cost(layer, {name: float(t.sum()) for name, t in time.items()}, *span)
        for layer, time, span in zip(placed, times, spans, strict=True)
    ]


@dataclass
class _Placed:
    """One layer on the grid of tiles."""

    layer: Layer
    groups: int = 0
    """Groups in use in a PE."""
    elements: int = 0
    """PEs."""
    tiles: int = 0
    per_tile: int = 0
    """PEs in use in the fullest tile."""
    rows: int = 0
    """Word lines in use in a crossbar."""
    cols: int = 0
    """Bit lines in use in a crossbar."""
    cells: int = 0
    """Cells that hold a bit of a weight, of one sign."""
    gather: int = 0
    """Links from the tile that gathers the results to the farthest tile of the layer."""
    transfer: float = 0
    """Links from there to the farthest tile that reads them."""


def _place(workload: Workload, hardware: Hardware, bits: Mapping[str, int]) -> list[_Placed]:
    """Lay the layers on the grid and find the tile that gathers (``TCG``, ``calculate_transfer_distance``)."""
    placed = [_map(layer, hardware, bits) for layer in workload.layers]
    last = np.cumsum([p.tiles for p in placed])
    rows, cols = hardware.chip.rows, hardware.chip.cols
    if last[-1] > rows * cols:
        raise ValueError(
            f"chip.rows x chip.cols must be at least {last[-1]} tiles for {workload.name!r}, got {rows} x {cols}"
        )
    # Shell s holds tiles s^2 to (s+1)^2 - 1; odd shells go down a column and back along a row, even ones the other way.
    number = np.arange(last[-1])
    shell = np.sqrt(number).astype(np.int64)
    step = number - shell**2
    along, across = np.minimum(step, shell), np.where(step <= shell, shell, 2 * shell - step)
    grid = np.where(shell % 2, (along, across), (across, along)).T
    places = {}
    for p, end in zip(placed, last, strict=True):
        own = grid[end - p.tiles : end]
        places[p.layer.name] = own[np.lexsort((own[:, 1], own[:, 0]))]  # row by row

    middle = rows / 2  # the accumulator of residual sums lies at the middle of the grid's left edge
    for p in placed:
        readers = [q.layer for q in placed if p.layer.name in q.layer.inputs]
        own = places[p.layer.name]
        read = [places[reader.name] for reader in readers if len(places[reader.name])]
        if p.layer.kind == "add":
            first = [place[0] for place in read]
            p.transfer = max((abs(x - middle) + y for x, y in first), default=0)
            continue
        inside = _farthest(own, own)
        if readers and all(reader.kind == "add" for reader in readers):
            outside = np.abs(own[:, 0] - middle) + own[:, 1]
        else:
            outside = _farthest(own, np.concatenate(read)) if read else np.zeros(len(own))
        chosen = int(np.argmin(inside + outside))
        p.gather, p.transfer = inside[chosen], outside[chosen]
    return placed


def _map(layer: Layer, hardware: Hardware, bits: Mapping[str, int]) -> _Placed:
    """Count groups, PEs and tiles of a layer (``TCG.__init__``)."""
    if layer.kind not in KINDS or layer.kernel_size[0] != layer.kernel_size[1]:
        raise ValueError(
            f"the MNSIM rules know {', '.join(KINDS)} with square kernels; layer {layer.name!r} is {layer.kind!r} "
            f"with kernel {layer.kernel_size}"
        )
    if layer.kind == "linear" and layer.positions > 1:
        raise ValueError(
            f"the MNSIM rules know linear layers on one vector; layer {layer.name!r} has {layer.positions} positions"
        )
    if layer.kind == "add":
        return _Placed(layer)
    if layer.kind == "pool":
        return _Placed(layer, elements=1, tiles=1, per_tile=1)
    crossbar, tile = hardware.crossbar, hardware.tile
    bit_slices(bits[layer.name], crossbar)  # a weight that is all sign is refused there
    stored = bits[layer.name] - (crossbar.polarity == 2)
    window = layer.kernel_size[0] ** 2
    channels = crossbar.rows // window  # of one crossbar
    if channels == 0:
        raise ValueError(
            f"crossbar.rows must hold the {window} rows of one channel of {layer.name!r}, got {crossbar.rows}"
        )
    blocks = math.ceil(layer.out_channels / crossbar.cols) * math.ceil(layer.in_channels / channels)
    elements = math.ceil(stored / tile.groups) * blocks
    return _Placed(
        layer,
        groups=min(stored, tile.groups),
        elements=elements,
        tiles=math.ceil(elements / tile.elements),
        per_tile=min(elements, tile.elements),
        rows=min(channels, layer.in_channels) * window,
        cols=min(layer.out_channels, crossbar.cols),
        cells=stored * layer.in_channels * window * layer.out_channels,
    )


def _crossbars(placed: _Placed, hardware: Hardware) -> int:
    return placed.elements * hardware.tile.groups * hardware.crossbar.polarity


def crossbars(workload: Workload, hardware: Hardware, bits: int) -> int:
    """Return the crossbars of a network whose weights all have these bits, sign included; PEs are allotted whole."""
    names = dict.fromkeys([layer.name for layer in workload.weighted], bits)
    return sum(_crossbars(_map(layer, hardware, names), hardware) for layer in workload.weighted)


def _farthest(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the largest Manhattan distance from each place to the others: an extreme of a sum or a difference."""
    turn = np.array([[1, 1], [1, -1]])
    own, far = places @ turn, others @ turn
    return np.maximum(far.max(axis=0) - own, own - far.min(axis=0)).max(axis=1)


class _Chip:
    """Times, powers and areas of the parts of the chip (``tile`` and ``ProcessElement`` in Hardware_Model)."""

    def __init__(self, hardware: Hardware, activation_bits: int) -> None:
        self.hardware, self.bits = hardware, activation_bits
        crossbar = hardware.crossbar
        subarray = min(hardware.array.subarray_rows, crossbar.rows)
        if crossbar.rows % subarray:
            raise ValueError(f"array.subarray_rows must divide crossbar.rows {crossbar.rows}, got {subarray}")
        subarrays = crossbar.rows // subarray
        self.dacs = hardware.dac.per_crossbar * subarrays
        self.adcs = hardware.adc.per_crossbar * subarrays
        self.demux = math.ceil(subarray / hardware.dac.per_crossbar)  # word lines that share a DAC
        self.mux = math.ceil(crossbar.cols / hardware.adc.per_crossbar)  # bit lines that share an ADC
        groups, merged = hardware.tile.groups, 0
        while groups > 1:
            merged, groups = merged + groups // 2, (groups + 1) // 2
        self.adders = merged * subarrays * self.adcs  # of one PE
        elements, self.joints = hardware.tile.elements, 0
        while elements > 1:
            self.joints, elements = self.joints + (elements + 1) // 2, elements // 2
        self.joints *= hardware.tile.groups * self.adcs  # of one tile

    def size_buffers(self, placed: list[_Placed]) -> None:
        """All PEs have the line buffer that the largest demand takes, all tiles the output buffer (``TCG``)."""
        line = out = 0
        for p in placed:
            if p.layer.weighted:
                layer = p.layer
                need = layer.in_size[1] * layer.kernel_size[0] * layer.in_channels * self.bits / 8 / p.elements
                line = max(line, 8 * 2 ** math.ceil(math.log2(need)))
                need = 2 * layer.out_channels * self.bits / 8 / p.tiles
                out = max(out, 8 * 2 ** math.ceil(math.log2(need)))
        self.line, self.out = self.hardware.buffer.macro(line), self.hardware.buffer.macro(out)

    def access(self, bits: float) -> float:
        """Return the time to read or write so many bits (``buffer`` in Hardware_Model/Buffer.py)."""
        return math.ceil(bits / self.hardware.buffer.port_bits) * self.hardware.buffer.access_time

    def times(self, p: _Placed, pipelined: bool) -> dict[str, np.ndarray]:
        """Return the parts of the latency of every output position [s], arrays of shape ``out_size``.

        (``PE_latency_analysis``, ``tile_latency_analysis``, ``pooling_latency_analysis``; transfers in
        ``Model_latency.calculate_model_latency``.)
        """
        layer, a, h = p.layer, self.bits, self.hardware
        out_bits = layer.out_channels * a
        transfer = p.transfer * out_bits / h.chip.bandwidth
        if layer.kind == "add":
            buffer = self.access(out_bits * len(layer.inputs))
            parts = {"buffer read": buffer, "buffer write": buffer, "digital": SUM_TIME, "transfer": transfer}
            return {name: np.full(layer.out_size, part) for name, part in parts.items()}
        if layer.kind == "pool":
            read, write = self.line_buffer(layer, layer.in_channels, pipelined)
            gather = self.access(out_bits)
            passes = math.ceil(layer.in_channels / h.pooling.units)
            passes *= math.ceil(layer.kernel_size[0] ** 2 / h.pooling.window)
            return {
                "buffer read": read + gather,
                "buffer write": write + gather,
                "pooling": np.full(layer.out_size, passes * h.pooling.latency),
                "transfer": np.full(layer.out_size, gather + transfer),  # the read counts a second time
            }
        period = h.digital.period
        row_groups, col_groups = math.ceil(p.rows / self.dacs), math.ceil(p.cols / self.adcs)
        steps = math.ceil(a / h.dac.bits) * row_groups * col_groups
        joints = math.ceil(math.log2(p.per_tile))
        levels = math.ceil(math.log2(h.tile.elements))
        gather = p.cols * a * p.per_tile  # bits
        read, write = self.line_buffer(layer, p.rows // layer.kernel_size[0] ** 2, pipelined)
        demux = h.digital.stages(math.ceil(h.crossbar.rows / h.dac.per_crossbar))
        mux = h.digital.stages(math.ceil(h.crossbar.cols / h.adc.per_crossbar))
        parts = {
            "DAC": steps * (h.dac.bits + 2) / h.dac.rate,
            "crossbar": steps * self.read_latency,
            "ADC": steps * self.adc_periods / h.adc.rate,
            "input register": (row_groups * col_groups + steps) * period,
            "demultiplexer": steps * demux * h.digital.decoder_latency,
            "multiplexer": steps * mux * h.digital.mux_latency,
            "shift register": steps * period,
            "adder": col_groups * math.ceil(math.log2(h.tile.groups)) * period,
            "output register": col_groups * period,
            "joint module": joints * period,
            "tile": (levels * (h.adc.bits + joints) - joints * (joints + 1) / 2) * p.cols / h.tile.bandwidth,
            "transfer": p.gather * (period + gather / h.chip.bandwidth) + transfer,
        }
        return {
            "buffer read": read + self.access(gather),
            "buffer write": write + self.access((h.adc.bits + joints) * p.cols * p.per_tile),
        } | {name: np.full(layer.out_size, part) for name, part in parts.items()}

    @property
    def read_latency(self) -> float:
        """Crossbar read with the simulator's estimate of the wires [s] (``RC_delay`` in ``PE_latency_analysis``)."""
        size = self.hardware.crossbar.rows * self.hardware.crossbar.cols / 8192
        return self.hardware.array.read_latency + 1e-12 * (2e-4 * size**2 + 5e-6 * size + 4e-14)

    @property
    def adc_periods(self) -> int:
        """Sample periods of one conversion."""
        adc = self.hardware.adc
        if adc.bits == 1:
            return 1
        return 2**adc.bits if adc.kind == "ramp" else adc.bits + 2

    def line_buffer(self, layer: Layer, channels: int, pipelined: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the times to read and to write the line buffer, for every output position [s].

        (``indata`` and ``rdata`` in ``Model_latency.calculate_model_latency`` and ``calculate_model_latency_nopipe``.)
        """
        k, s, p, width = layer.kernel_size[0], layer.stride[0], layer.padding[0], layer.in_size[1]
        inner = max(k - p, 0)
        if pipelined:
            first, row, rest = inner**2, s * inner, s**2
            top = rest if layer.kind == "pool" else s * k  # the first row
        else:
            first, row, top, rest = width * max(k - p - 1, 0) + inner, width * (s - 1) + inner, s, s
        write = np.full(layer.out_size, self.access(channels * rest * self.bits))
        write[0] = self.access(channels * top * self.bits)
        write[:, 0] = self.access(channels * row * self.bits)
        write[0, 0] = self.access(channels * first * self.bits)
        read = np.full(layer.out_size, self.access(s * k * channels * self.bits))
        read[:, 0] = self.access(k * k * channels * self.bits)
        return read, write

    def powers(self, p: _Placed) -> dict[str, float]:
        """Return the power of the parts of a layer [W], by the names of `times` (``calculate_model_power``)."""
        h, buffer = self.hardware, self.hardware.buffer

        def access(energy: tuple[float, ...], macro: int) -> float:
            return energy[macro] / buffer.access_time + buffer.leakage[macro]

        if p.layer.kind == "add":
            return {}  # the accumulator is left out
        lines = p.per_tile if p.layer.weighted else 0
        energies = {"buffer read": buffer.read_energy, "buffer write": buffer.write_energy}
        powers = {
            name: p.tiles * (lines * access(energy, self.line) + access(energy, self.out))
            for name, energy in energies.items()
        }
        if p.layer.kind == "pool":
            return powers | {"pooling": h.pooling.power}
        groups = p.tiles * p.per_tile * p.groups
        rows, cols = math.ceil(p.rows / self.demux), math.ceil(p.cols / self.mux)
        cells = groups * h.crossbar.polarity * p.rows * p.cols / (self.demux * self.mux)
        return powers | {
            "crossbar": cells * h.array.cell_power,
            "DAC": groups * rows * h.dac.power,
            "ADC": groups * cols * h.adc.power,
            "input register": groups * rows * h.register.power,
            "demultiplexer": groups * rows * h.digital.transistors(self.demux) * h.digital.transistor_power,
            "multiplexer": groups * cols * h.digital.transistors(self.mux) * h.digital.transistor_power,
            "shift register": groups * cols * h.shift_add.power,
            "output register": groups * cols * h.register.power,
            "joint module": p.tiles * (p.per_tile - 1) * cols * h.joint.power,
        }

    def tile_area(self) -> dict[str, float]:
        """Return the area of one tile by component [m^2] (``tile`` in Hardware_Model/Tile.py)."""
        h = self.hardware
        pes, groups = h.tile.elements, h.tile.elements * h.tile.groups
        transistor = h.digital.transistor_area
        per_adc = h.shift_add.area + h.register.area + h.digital.transistors(self.mux) * transistor
        per_dac = h.register.area + h.digital.transistors(self.demux) * transistor
        crossbar = h.crossbar.rows * h.crossbar.cols * h.array.cell_area + h.crossbar.rows * h.array.driver_area
        return {
            "crossbar": groups * h.crossbar.polarity * crossbar,
            "DAC": groups * self.dacs * h.dac.area,
            "ADC": groups * self.adcs * h.adc.area,
            "digital": groups * (self.adcs * per_adc + self.dacs * per_dac)
            + pes * self.adders * h.adder.area
            + self.joints * h.joint.area,
            "buffer": pes * h.buffer.area[self.line] + h.buffer.area[self.out],
            "pooling": h.pooling.area,
        }

    def cost(self, p: _Placed, time: dict[str, float], start: float, finish: float) -> LayerCost:
        h = self.hardware
        weighted = p.layer.weighted
        return LayerCost(
            name=p.layer.name,
            kind=p.layer.kind,
            crossbars=_crossbars(p, h) if weighted else 0,
            utilization=p.cells / (p.elements * h.tile.groups * h.crossbar.rows * h.crossbar.cols) if weighted else 0.0,
            time=time,
            energy={name: power * time[name] for name, power in self.powers(p).items()},
            area={name: p.tiles * area for name, area in self.tile_area().items()} if p.tiles else {},
            counts={"processing elements": p.elements if weighted else 0, "tiles": p.tiles},
            start=start,
            finish=finish,
        )


def _one_by_one(workload: Workload, times: list[np.ndarray]) -> list[tuple[float, float]]:
    """Return start and finish of the layers when each waits for the first of the layers that it reads.

    (``Model_latency.calculate_model_latency_nopipe``.)
    Residual sums alone go on as in the pipeline.
    """
    finish: dict[str, np.ndarray] = {}
    for layer, time in zip(workload.layers, times, strict=True):
        if layer.kind == "add":
            finish[layer.name] = finish_times(layer, time, finish)
        else:
            before = finish[layer.inputs[0]][-1] if layer.inputs[0] != "input" else 0.0
            finish[layer.name] = before + time.cumsum()
    return [
        (float(finish[layer.name][0] - time[0]), float(finish[layer.name][-1]))
        for layer, time in zip(workload.layers, times, strict=True)
    ]
