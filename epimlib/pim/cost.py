"""Cost of a network: counted events times what each costs.

The equations of one layer. `epimlib.pim.evaluate` puts the layers of a network together, `epimlib.search.table` adds
up very many designs. These are our own rules; those of the simulator MNSIM are in `epimlib.pim.mnsim`.

For one layer and one image, ``n_x`` is the count of event ``x`` in `epimlib.pim.events.Events`; the symbols are those
of the notation page: crossbars of ``S_r`` word lines and ``S_c`` bit lines, ``M_r x M_c`` blocks of the layer's matrix,
``sigma`` bit slices, polarity ``pi``, ``N = M_r M_c sigma pi`` crossbars, ``b`` and ``b_x`` bits of a
weight and an activation. ``D`` and ``A`` are the DACs and ADCs of a crossbar (pair), ``T`` is the clock period.

**Latency** is the sum of five parts::

    (1) analog         max(n_reads t_read, n_steps / z ceil(c / sigma) t_convert)
                       t_read    = 1 / f_DAC + m(S_r / D) t_decoder + t_array
                       t_convert = q / f_ADC + m(S_c / A) t_mux,  q = 1, or 2^b_ADC for a ramp converter
    (2) digital        T (n_rounds d + (n_output_writes - n_copies) / (A M_c))
    (3) input buffer   t_bit B_in / (M_r a),  B_in = b_x (n_input_writes + n_input_reads)
    (4) output buffer  t_bit B_out / M_c,  B_out = 2 b_x O + b_s (n_output_reads + n_output_writes - O)
    (5) network        hops b_x O / (M_c * link bandwidth)

Sample-and-holds let a row group be read while the one before it is converted, so the slower of the two counts (1).
``n_reads`` are reads that follow one another, ``n_steps`` these times the columns that share an ADC; ``m`` counts the
stages of a multiplexer. A column takes ``c = Adc.conversions`` in a row group, ``z sigma`` if each of the ``z`` cycles
is converted and fewer if reads are added before; the ADCs of its ``sigma`` slices share them. A round passes ``d``
clocked stages: shift-and-add, the adder tree of ``ceil(log2 M_r)`` levels, the offset (``pi = 1``), the joint module,
its coefficients and the index tables where it uses them; then the columns that share an ADC leave one by one (2). Where
``s > 1`` output blocks share the sums of a round (coefficients), the ``n_output_reads`` that are stored pass the joint
module after the last round, likewise. Every row block has an input buffer, every column block an output buffer and a
link, which all work at the same time; a bit takes ``t_bit = t_access / port + 1 / tile bandwidth`` (3 to 5). A grouped
convolution has ``a`` arrays of ``M_r`` row blocks, which serve one group or several each; ``a = 1`` for all other
layers. Input buffers are taken to be read evenly, and a word to be stored in one of them: for epitomes of the channel
family that is a little less than they need. ``O`` are the output words of the layer, copies included: written once and
read once to be sent. Partial sums of rounds have ``b_s = b + b_x + ceil(log2 n)`` bits, ``n = C_in k_h k_w / G`` being
the products that an output is the sum of. Where they are weighed before they are stored (``s = 1``), a power of two
takes three bits more and a free coefficient seven.

**Energy**, by component::

    (6) crossbar       n_cell_reads P_cell t_array
        DAC            n_dac_conversions P_DAC (1 / f_DAC + t_array)         it holds its word line during the read
        ADC            n_adc_conversions P_ADC q / f_ADC
        digital        n_analog_adds E_sum
                       + T (n_shift_adds P_shift_add + (n_tree_adds + n_offset_adds) P_adder
                       + n_dac_conversions (P_register + P_demux) + n_adc_conversions (P_register + P_mux))
        joint module   T (n_joins P_joint + n_negations P_adder + n_shifts P_shift_add)
        input buffer   b_x (n_input_reads E_read + n_input_writes E_write) / port
        output buffer  the bits of (4), read and written, likewise
        index tables   n_table_bits E_table
        network        (B_in + B_out) E_tile + hops b_x O E_hop
        leakage        leakage of the layer's buffers and tables * its latency: idle tiles are switched off

**Area**::

    (7) crossbar       N (S_r S_c A_cell + S_r A_driver)
        DAC, ADC       N / pi * (D A_DAC, A A_ADC)
        digital        N / pi * (A (A_shift_add + A_register + A_mux) + D (A_register + A_demux))
                       + (M_r - 1) M_c A A_adder
        joint module   M_c A s (A_joint + A_adder + shifts of a coefficient * A_shift_add), the last two if there are
                       coefficients
        buffers        M_r a macros that hold d (k_h - 1) + 1 rows of the input together, M_c that hold two output
                       positions, and where s > 1 the sums of an output block's rounds but the last
        index tables   bits of the tables * A_bit
        pooling        tiles * A_pooling, where a tile holds groups * elements crossbars (pairs) of one layer
        network        tiles * A_router

The rest of a network: pooling takes a tile of its own; a residual sum, or the product with a gate, is done by
``pooling.units`` adders for each ``S_c`` channels, a product bit by bit; concatenation is free; of products of
activations (attention) the traffic is counted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from epimlib.epitome.plan import COEFFICIENT_MOST, COEFFICIENT_SHIFTS, EpitomeSpec
from epimlib.epitome.workload import Layer
from epimlib.pim.events import input_cycles, layer_events, position_events
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import bit_slices, map_layer

COUNTED = (
    "Counted: crossbars with converters and digital logic, buffers, index tables, joint modules, pooling, "
    "element-wise units, transfers and leakage while a layer works. Not counted: programming of the cells, "
    "off-chip memory, control, activation functions, the arithmetic of products of activations."
)


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs for one image. Dictionaries go by component."""

    name: str
    kind: str
    crossbars: int
    utilization: float
    """Share of the cells of its crossbars that hold a part of a weight."""
    time: Mapping[str, float]
    """What it is busy with, one after the other [s]."""
    energy: Mapping[str, float]
    """[J]"""
    area: Mapping[str, float]
    """[m^2]"""
    leakage: float = 0.0
    """Static power while it works [W]."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each action happens."""
    start: float = 0.0
    """When its first position starts [s]."""
    finish: float = 0.0
    """When its last position is finished [s]."""

    @property
    def latency(self) -> float:
        """Time that the layer is busy [s]; waiting for other layers is left out."""
        return math.fsum(self.time.values())

    @property
    def sums(self) -> tuple[float, float, float, int]:
        """Latency [s], energy [J], area [m^2] and crossbars: what adds up over layers."""
        return self.latency, math.fsum(self.energy.values()), math.fsum(self.area.values()), self.crossbars


class _Parts(NamedTuple):
    """What some components of a layer cost."""

    time: dict[str, float]
    energy: dict[str, float]
    area: dict[str, float]
    leakage: float = 0.0


def _add_up(parts: Mapping[str, Mapping[str, float]], number: Mapping[str, float]) -> dict[str, float]:
    """Return for every component the sum of what each of its parts costs times the number of them."""
    return {name: math.fsum([number[part] * each for part, each in costs.items()]) for name, costs in parts.items()}


def _input_words(layer: Layer) -> int:
    """Return the input words from the first to the last row of the feature map that a window touches."""
    return (layer.dilation[0] * (layer.kernel_size[0] - 1) + 1) * layer.in_size[1] * layer.in_channels


def _cost(
    layer: Layer, own: _Parts, traffic: _Parts, counts: dict[str, int], crossbars: int = 0, utilization: float = 0.0
) -> LayerCost:
    """Return the cost of a layer, which leaks while it works."""
    time, leakage = own.time | traffic.time, own.leakage + traffic.leakage
    energy = own.energy | traffic.energy | {"leakage": leakage * math.fsum(time.values())}
    area = own.area | traffic.area
    return LayerCost(layer.name, layer.kind, crossbars, utilization, time, energy, area, leakage, counts)


class CostModel:
    """The equations above for one accelerator; layers that are alike are computed once.

    ``energy`` holds, for every component, what each event costs [J], and ``area`` what each part takes [m^2]: equations
    (6) and (7) without buffers and network; a new component is a row in each. Names are the symbols of the equations.
    """

    def __init__(self, hardware: Hardware, activation_bits: int) -> None:
        self.hardware, self.b_x = hardware, activation_bits
        h, digital = hardware, hardware.digital
        S_r, S_c = h.crossbar.rows, h.crossbar.cols
        self.D, self.A, self.T = min(h.dac.per_crossbar, S_r), min(h.adc.per_crossbar, S_c), digital.period
        demux, mux = math.ceil(S_r / self.D), math.ceil(S_c / self.A)
        drive = 1 / h.dac.rate + h.array.read_latency
        convert = (2**h.adc.bits if h.adc.kind == "ramp" else 1) / h.adc.rate
        self.t_read = drive + digital.stages(demux) * digital.decoder_latency
        self.t_convert = convert + digital.stages(mux) * digital.mux_latency
        self.t_bit = h.buffer.access_time / h.buffer.port_bits + 1 / h.tile.bandwidth
        self.energy = {
            "crossbar": {"cell_reads": h.array.cell_power * h.array.read_latency},
            "DAC": {"dac_conversions": h.dac.power * drive},
            "ADC": {"adc_conversions": h.adc.power * convert},
            "digital": {
                "analog_adds": h.adc.sum_energy,
                "shift_adds": self.T * h.shift_add.power,
                "tree_adds": self.T * h.adder.power,
                "offset_adds": self.T * h.adder.power,
                "dac_conversions": self.T * (h.register.power + digital.transistors(demux) * digital.transistor_power),
                "adc_conversions": self.T * (h.register.power + digital.transistors(mux) * digital.transistor_power),
            },
            "joint module": {
                "joins": self.T * h.joint.power,
                "negations": self.T * h.adder.power,
                "shifts": self.T * h.shift_add.power,
            },
            "index tables": {"table_bits": h.table.read_energy},
        }
        self.area = {
            "crossbar": {"crossbars": S_r * S_c * h.array.cell_area + S_r * h.array.driver_area},
            "DAC": {"DACs": h.dac.area},
            "ADC": {"ADCs": h.adc.area},
            "digital": {
                "ADCs": h.shift_add.area + h.register.area + digital.transistors(mux) * digital.transistor_area,
                "DACs": h.register.area + digital.transistors(demux) * digital.transistor_area,
                "adders": h.adder.area,
            },
            "joint module": {"joints": h.joint.area, "negators": h.adder.area, "shifters": h.shift_add.area},
            "index tables": {"table bits": h.table.area},
            "pooling": {"tiles": h.pooling.area},
            "network": {"tiles": h.chip.router_area},
        }
        self.known: dict[tuple, LayerCost] = {}

    def layer(self, layer: Layer, spec: EpitomeSpec | None, bits: int | None) -> LayerCost:
        """Return the cost of one layer; ``start`` and ``finish`` are left open, the name may be of one alike."""
        shape = (layer.kind, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        key = (*shape, layer.dilation, layer.groups, layer.in_size, layer.out_size, len(layer.inputs), spec, bits)
        if key not in self.known:
            if layer.weighted:
                self.known[key] = self._weighted(layer, spec, bits)
            elif layer.kind == "pool":
                self.known[key] = self._pool(layer)
            else:
                self.known[key] = self._elementwise(layer)
        return self.known[key]

    def _weighted(self, layer: Layer, spec: EpitomeSpec | None, b: int) -> LayerCost:
        h, b_x = self.hardware, self.b_x
        slices = bit_slices(b, h.crossbar)
        mapped = map_layer(layer, spec, h.crossbar, slices)
        n, (_, turns) = layer_events(layer, spec, h, b, b_x), position_events(layer, spec, h)
        table_bits = n.table_bits // layer.positions
        _, _, a, M_r, col_blocks = mapped.packing
        M_c = a * col_blocks
        pairs, lanes = mapped.crossbars // h.crossbar.polarity, M_c * self.A
        kind, shares = (spec.coefficients, spec.plan().shares if h.reuse else 1) if spec else ("none", 1)
        number = {
            "crossbars": mapped.crossbars,
            "DACs": pairs * self.D,
            "ADCs": pairs * self.A,
            "adders": (M_r - 1) * lanes,
            "joints": lanes * shares,
            "negators": lanes * shares * (kind != "none"),
            "shifters": lanes * shares * COEFFICIENT_SHIFTS[kind],
            "table bits": table_bits,
            "tiles": math.ceil(pairs / (h.tile.groups * h.tile.elements)),
        }
        z = input_cycles(b_x, h.dac.bits)
        n_reads = layer.positions * z * turns
        per_adc = math.ceil(h.adc.conversions(z, slices, h.dac.bits, h.crossbar.cell_bits) / slices)
        d = 1 + math.ceil(math.log2(M_r)) + (h.crossbar.polarity == 1)
        d += (n.joins > 0) + (n.negations > 0) + (n.table_bits > 0)
        passes = n.output_writes - n.copies + (shares > 1) * n.output_reads
        time = {
            "analog": max(n_reads * self.t_read, n.steps // z * per_adc * self.t_convert),
            "digital": self.T * (n.rounds * d + passes / lanes),
        }
        counts = n.to_dict() | {"tiles": number["tiles"]}
        own = _Parts(time, _add_up(self.energy, vars(n)), _add_up(self.area, number), table_bits * h.table.leakage)
        b_s = b + b_x + math.ceil(math.log2(math.prod(layer.weight_shape[1:])))
        b_s += (COEFFICIENT_MOST[kind] - 1).bit_length() * (shares == 1)
        stored = spec.block[0] * (spec.grid[1] - 1) if shares > 1 else 0
        partial = n.output_reads, n.output_writes - layer.positions * layer.out_channels, stored
        inputs = n.input_reads, n.input_writes, _input_words(layer)
        traffic = self._traffic(layer, inputs, (M_r * a, M_c), partial, b_s)
        return _cost(layer, own, traffic, counts, mapped.crossbars, mapped.utilization)

    def _pool(self, layer: Layer) -> LayerCost:
        h, pooling = self.hardware, self.hardware.pooling
        window = math.prod(layer.kernel_size)
        outputs, fetched = layer.positions * layer.out_channels, layer.positions * layer.in_channels * window
        stored = math.prod(layer.in_size) * layer.in_channels
        passes = layer.positions * math.ceil(layer.in_channels / pooling.units) * math.ceil(window / pooling.window)
        traffic = self._traffic(layer, (fetched, stored, _input_words(layer)), (1, 1), (0, 0, 0), self.b_x)
        time = passes * pooling.latency
        area = {"pooling": pooling.area, "network": h.chip.router_area}
        own = _Parts({"pooling": time}, {"pooling": time * pooling.power}, area)
        counts = {"pooling_passes": passes, "input_reads": fetched, "input_writes": stored, "output_writes": outputs}
        return _cost(layer, own, traffic, counts | {"tiles": 1})

    def _elementwise(self, layer: Layer) -> LayerCost:
        """Sums and products of feature maps; of a product of activations only the traffic, of a concatenation none."""
        if layer.kind == "concat":
            return LayerCost(layer.name, layer.kind, 0, 0.0, {}, {}, {})
        h, b_x = self.hardware, self.b_x
        words = layer.positions * layer.out_channels
        operands = max(len(layer.inputs), 2)
        parallel = math.ceil(layer.out_channels / h.crossbar.cols)
        rounds = {"add": operands - 1, "multiply": (operands - 1) * b_x}.get(layer.kind, 0)  # additions for each word
        inputs = operands * words, operands * words, operands * layer.out_channels
        traffic = self._traffic(layer, inputs, (parallel, parallel), (0, 0, 0), b_x)
        lanes = h.pooling.units * parallel
        steps = layer.positions * math.ceil(layer.out_channels / lanes) * rounds
        energy, area = self.T * words * rounds * h.adder.power, (lanes if rounds else 0) * h.adder.area
        own = _Parts({"digital": self.T * steps}, {"digital": energy}, {"digital": area})
        moved = {"input_reads": inputs[0], "input_writes": inputs[1], "output_writes": words}
        return _cost(layer, own, traffic, {"additions": words * rounds, **moved})

    def _traffic(
        self,
        layer: Layer,
        inputs: tuple[int, int, int],
        number: tuple[int, int],
        partial: tuple[int, int, int],
        b_s: int,
    ) -> _Parts:
        """Return the cost of buffers and network; ``inputs`` are words that are read, written and held at a time.

        ``number`` is that of input and of output buffers. The latter read and write ``partial`` sums of ``b_s`` bits,
        and hold the third number of them besides two output positions.
        """
        sent = layer.positions * layer.out_channels * self.b_x
        fetched, stored, held = (words * self.b_x for words in inputs)
        reads, writes = (fetched, sent + partial[0] * b_s), (stored, sent + partial[1] * b_s)
        capacity = held, (2 * layer.out_channels + partial[2]) * b_s
        h, buffer = self.hardware, self.hardware.buffer
        time, energy, area, leakage = {}, {}, {}, 0.0
        for name, read, write, count, size in zip(("input", "output"), reads, writes, number, capacity, strict=True):
            macro = buffer.macro(size / count)
            time[f"{name} buffer"] = (read + write) / count * self.t_bit
            accesses = read * buffer.read_energy[macro] + write * buffer.write_energy[macro]
            energy[f"{name} buffer"] = accesses / buffer.port_bits
            area[f"{name} buffer"] = count * buffer.area[macro]
            leakage += count * buffer.leakage[macro]
        time["network"] = h.chip.hops * sent / (number[1] * h.chip.bandwidth)
        moved = sum(reads) + sum(writes)
        energy["network"] = moved * h.tile.bit_energy + h.chip.hops * sent * h.chip.hop_energy
        return _Parts(time, energy, area, leakage)
