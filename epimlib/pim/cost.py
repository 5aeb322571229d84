"""Cost of a network: counted events times what each costs.

`evaluate` gives a `CostReport` of one network, `tabulate` and `evaluate_many` the additive costs of very many designs.
These are our own rules; those of the simulator MNSIM are in `epimlib.pim.mnsim`.

For one layer and one image, ``n_x`` is the count of event ``x`` in `epimlib.pim.events.Events`; the symbols are those
of the notation page: crossbars of ``S_r`` word lines and ``S_c`` bit lines, ``M_r x M_c`` blocks of the layer's matrix,
``sigma`` bit slices, polarity ``pi``, ``N = M_r M_c sigma pi`` crossbars, ``b`` and ``b_x`` bits of a
weight and an activation. ``D`` and ``A`` are the DACs and ADCs of a crossbar (pair), ``T`` is the clock period.

**Latency** is the sum of five parts::

    (1) analog         max(n_reads t_read, n_steps t_convert)
                       t_read    = 1 / f_DAC + m(S_r / D) t_decoder + t_array
                       t_convert = q / f_ADC + m(S_c / A) t_mux,  q = 1, or 2^b_ADC for a ramp converter
    (2) digital        T (n_rounds d + (n_output_writes - n_copies) / (A M_c))
    (3) input buffer   t_bit B_in / (M_r a),  B_in = b_x (n_input_writes + n_input_reads)
    (4) output buffer  t_bit B_out / M_c,  B_out = 2 b_x O + b_s (n_output_reads + n_output_writes - O)
    (5) network        hops b_x O / (M_c * link bandwidth)

Sample-and-holds let a row group be read while the one before it is converted, so the slower of the two counts (1).
``n_reads`` are reads that follow one another, ``n_steps`` these times the columns that share an ADC; ``m`` counts the
stages of a multiplexer. A round passes ``d`` clocked stages: shift-and-add, the adder tree of ``ceil(log2 M_r)``
levels, the offset (``pi = 1``), the joint module and the index tables where it uses them; then the columns that share
an ADC leave one by one (2). Every row block has an input buffer, every column block an output buffer and a link, which
all work at the same time; a bit takes ``t_bit = t_access / port + 1 / tile bandwidth`` (3 to 5). A grouped convolution
has ``a`` arrays of ``M_r`` row blocks, which serve one group or several each; ``a = 1`` for all other layers. Input
buffers are taken to be read evenly, and a word to be stored in one of them: for epitomes of the channel family that is
a little less than they need. ``O`` are the output words of the layer, copies included: written once and read once to
be sent. Partial sums of rounds have
``b_s = b + b_x + ceil(log2 n)`` bits, ``n = C_in k_h k_w / G`` being the products that an output is the sum of.

**Energy**, by component::

    (6) crossbar       n_cell_reads P_cell t_array
        DAC            n_dac_conversions P_DAC (1 / f_DAC + t_array)         it holds its word line during the read
        ADC            n_adc_conversions P_ADC q / f_ADC
        digital        T (n_shift_adds P_shift_add + (n_tree_adds + n_offset_adds) P_adder
                       + n_dac_conversions (P_register + P_demux) + n_adc_conversions (P_register + P_mux))
        joint module   T n_joins P_joint
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
        joint module   M_c A A_joint
        buffers        M_r a macros that hold d (k_h - 1) + 1 rows of the input together, M_c that hold two output
                       positions
        index tables   bits of the tables * A_bit
        pooling        tiles * A_pooling, where a tile holds groups * elements crossbars (pairs) of one layer
        network        tiles * A_router

The rest of a network: pooling takes a tile of its own; a residual sum, or the product with a gate, is done by
``pooling.units`` adders for each ``S_c`` channels, a product bit by bit; concatenation is free; of products of
activations (attention) the traffic is counted.

**The network.** Layer after layer, its latency is the sum over the layers. Layer-pipelined, a layer starts as soon as
its window is there (`epimlib.pim.pipeline`); all positions of a layer take equally long.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from epimlib._checks import keys, positive
from epimlib.design import Design
from epimlib.pim import mnsim
from epimlib.pim.events import layer_events
from epimlib.pim.hardware import Hardware, check_hardware
from epimlib.pim.layout import rows_in_use
from epimlib.pim.mapping import bit_slices, layer_bits, map_layer
from epimlib.pim.pipeline import pipeline
from epimlib.pim.report import CostReport, LayerCost
from epimlib.plan import EpitomeSpec
from epimlib.workload import Layer, Workload, check_workload


def evaluate(
    workload: Workload,
    hardware: Hardware,
    design: Mapping[str, EpitomeSpec] | None = None,
    bits: int | Mapping[str, int] = 9,
    activation_bits: int = 9,
    pipelined: bool = True,
    baseline_bits: int = 32,
) -> CostReport:
    """Return what one image costs.

    Args:
        workload: the network.
        hardware: the accelerator; its ``rules`` choose between our model and that of MNSIM.
        design: epitomes by layer name; layers that it does not name are dense.
        bits: of a weight, sign included; one number, or one for each weighted layer by name.
        activation_bits: of inputs and outputs of every layer.
        pipelined: whether a layer starts as soon as its window is there, or after all layers before it.
        baseline_bits: of a weight of the dense network that the report's ``factor`` compares with.

    Raises:
        TypeError: if the workload or the hardware is something else: a model, a name.
        ValueError: if the design or the bits do not fit the workload, a crossbar is too small, or the rules of MNSIM
            are asked for what the simulator does not know: an epitome, or a kind of layer.
    """
    if not check_workload(workload).weighted:
        raise ValueError(f"workload must have a layer with a weight, and {workload.name!r} has none")
    design = Design(design).check(workload)
    weights = layer_bits(workload, bits)
    slices = bit_slices(positive("baseline_bits", baseline_bits), check_hardware(hardware).crossbar)
    positive("activation_bits", activation_bits)
    if hardware.rules == "mnsim":
        if design:
            raise ValueError(
                f"rules 'mnsim' evaluate dense networks only, got a design with {len(design)} epitomes; "
                "choose rules 'events'"
            )
        layers = mnsim.layer_costs(workload, hardware, weights, activation_bits, pipelined)
        baseline = mnsim.crossbars(workload, hardware, baseline_bits)
    else:
        model = _Model(hardware, activation_bits)
        layers = [model.layer(layer, design.get(layer.name), weights.get(layer.name)) for layer in workload.layers]
        layers = _schedule(workload, layers, pipelined)
        baseline = sum(map_layer(layer, None, hardware.crossbar, slices).crossbars for layer in workload.weighted)
    return CostReport(
        workload=workload.name,
        input_size=workload.input_size,
        macs=sum(layer.macs for layer in workload.weighted),
        hardware=hardware,
        dense=not design,
        bits=tuple(sorted(set(weights.values()))),
        activation_bits=activation_bits,
        baseline_bits=baseline_bits,
        baseline_crossbars=baseline,
        pipelined=pipelined,
        latency=max(layer.finish for layer in layers),
        layers=tuple(layers),
    )


def _window_rows(layer: Layer) -> int:
    """Return the rows of the feature map from the first to the last that a window touches."""
    return layer.dilation[0] * (layer.kernel_size[0] - 1) + 1


def _schedule(workload: Workload, costs: list[LayerCost], pipelined: bool) -> list[LayerCost]:
    if pipelined:
        times = [cost.latency / layer.positions for layer, cost in zip(workload.layers, costs, strict=True)]
        spans = pipeline(workload, times)
    else:
        finish = np.cumsum([cost.latency for cost in costs]).tolist()
        spans = list(zip([0.0, *finish[:-1]], finish, strict=True))
    return [
        dataclasses.replace(cost, name=layer.name, start=start, finish=finish)
        for layer, cost, (start, finish) in zip(workload.layers, costs, spans, strict=True)
    ]


class _Model:
    """The equations above for one accelerator; layers that are alike are computed once."""

    def __init__(self, hardware: Hardware, activation_bits: int) -> None:
        self.hardware, self.bits = hardware, activation_bits
        h, crossbar, digital = hardware, hardware.crossbar, hardware.digital
        self.dacs = min(h.dac.per_crossbar, crossbar.rows)
        self.adcs = min(h.adc.per_crossbar, crossbar.cols)
        demux, mux = math.ceil(crossbar.rows / self.dacs), math.ceil(crossbar.cols / self.adcs)
        convert = (2**h.adc.bits if h.adc.kind == "ramp" else 1) / h.adc.rate
        drive = 1 / h.dac.rate + h.array.read_latency
        self.read_time = drive + digital.stages(demux) * digital.decoder_latency
        self.convert_time = convert + digital.stages(mux) * digital.mux_latency
        self.bit_time = h.buffer.access_time / h.buffer.port_bits + 1 / h.tile.bandwidth
        clock = digital.period
        demux_power, mux_power = (digital.transistors(ratio) * digital.transistor_power for ratio in (demux, mux))
        demux_area, mux_area = (digital.transistors(ratio) * digital.transistor_area for ratio in (demux, mux))
        self.cell_energy = h.array.cell_power * h.array.read_latency
        self.dac_energy = h.dac.power * drive
        self.adc_energy = h.adc.power * convert
        self.per_dac = clock * (h.register.power + demux_power)
        self.per_adc = clock * (h.register.power + mux_power)
        self.crossbar_area = crossbar.rows * crossbar.cols * h.array.cell_area + crossbar.rows * h.array.driver_area
        self.digital_area = self.adcs * (h.shift_add.area + h.register.area + mux_area)
        self.digital_area += self.dacs * (h.register.area + demux_area)
        # With one ADC for each column, the steps that follow one another are the reads.
        self.reads = dataclasses.replace(h, adc=dataclasses.replace(h.adc, per_crossbar=crossbar.cols))
        self.known: dict[tuple, LayerCost] = {}

    def layer(self, layer: Layer, spec: EpitomeSpec | None, bits: int | None) -> LayerCost:
        """Return the cost of one layer; ``start`` and ``finish`` are left open, the name may be of one alike."""
        shape = (layer.kind, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        key = (*shape, layer.dilation, layer.groups, layer.in_size, layer.out_size, len(layer.inputs), spec, bits)
        if key not in self.known:
            if layer.weighted:
                cost = self._weighted(layer, spec, bits)
            elif layer.kind == "pool":
                cost = self._pool(layer)
            else:
                cost = self._elementwise(layer)
            self.known[key] = cost
        return self.known[key]

    def _weighted(self, layer: Layer, spec: EpitomeSpec | None, bits: int) -> LayerCost:
        h, a, clock = self.hardware, self.bits, self.hardware.digital.period
        polarity = h.crossbar.polarity
        n = layer_events(layer, spec, h, bits, a)
        mapped = map_layer(layer, spec, h.crossbar, bit_slices(bits, h.crossbar))
        if spec is None and layer.groups == 1:  # one round, and its columns share the ADCs evenly
            reads = n.steps // math.ceil(min(mapped.cols, h.crossbar.cols) / self.adcs)
        else:
            reads = layer_events(layer, spec, self.reads, bits, a).steps
        window = math.prod(spec.epitome[2:] if spec else layer.kernel_size)
        row_blocks = math.ceil(mapped.rows / rows_in_use(window, h.crossbar))
        col_blocks = mapped.blocks // row_blocks
        arrays = col_blocks // math.ceil(mapped.cols / h.crossbar.cols)  # groups that share no word line
        pairs = mapped.blocks * mapped.slices
        tiles = math.ceil(pairs / (h.tile.groups * h.tile.elements))
        table_bits = n.table_bits // layer.positions

        outputs = layer.positions * layer.out_channels  # words
        partial = a + bits + math.ceil(math.log2(math.prod(layer.weight_shape[1:])))  # bits of a partial sum
        read_bits = outputs * a + n.output_reads * partial
        write_bits = outputs * a + (n.output_writes - outputs) * partial
        traffic = self._traffic(
            reads=(n.input_reads * a, read_bits),
            writes=(n.input_writes * a, write_bits),
            buffers=(row_blocks * arrays, col_blocks),
            capacity=(_window_rows(layer) * layer.in_size[1] * layer.in_channels * a, 2 * layer.out_channels * partial),
            sent=outputs * a,
        )
        depth = 1 + math.ceil(math.log2(row_blocks)) + (polarity == 1) + (n.joins > 0) + (table_bits > 0)
        drained = (n.output_writes - n.copies) / (self.adcs * col_blocks)
        time = {
            "analog": max(reads * self.read_time, n.steps * self.convert_time),
            "digital": clock * (n.rounds * depth + drained),
        } | traffic.time
        leakage = traffic.leakage + table_bits * h.table.leakage
        energy = {
            "crossbar": n.cell_reads * self.cell_energy,
            "DAC": n.dac_conversions * self.dac_energy,
            "ADC": n.adc_conversions * self.adc_energy,
            "digital": clock * (n.shift_adds * h.shift_add.power + (n.tree_adds + n.offset_adds) * h.adder.power)
            + n.dac_conversions * self.per_dac
            + n.adc_conversions * self.per_adc,
            "joint module": clock * n.joins * h.joint.power,
            "index tables": n.table_bits * h.table.read_energy,
        } | traffic.energy
        energy["leakage"] = leakage * sum(time.values())
        area = {
            "crossbar": mapped.crossbars * self.crossbar_area,
            "DAC": pairs * self.dacs * h.dac.area,
            "ADC": pairs * self.adcs * h.adc.area,
            "digital": pairs * self.digital_area + (row_blocks - 1) * col_blocks * self.adcs * h.adder.area,
            "joint module": col_blocks * self.adcs * h.joint.area,
            "index tables": table_bits * h.table.area,
            "pooling": tiles * h.pooling.area,
            "network": tiles * h.chip.router_area,
        } | traffic.area
        counts = n.to_dict() | {"tiles": tiles}
        return LayerCost(
            layer.name, layer.kind, mapped.crossbars, mapped.utilization, time, energy, area, leakage, counts
        )

    def _pool(self, layer: Layer) -> LayerCost:
        h, a, pooling = self.hardware, self.bits, self.hardware.pooling
        window = math.prod(layer.kernel_size)
        outputs, fetched = layer.positions * layer.out_channels, layer.positions * layer.in_channels * window
        stored = math.prod(layer.in_size) * layer.in_channels
        passes = layer.positions * math.ceil(layer.in_channels / pooling.units) * math.ceil(window / pooling.window)
        traffic = self._traffic(
            reads=(fetched * a, outputs * a),
            writes=(stored * a, outputs * a),
            buffers=(1, 1),
            capacity=(_window_rows(layer) * layer.in_size[1] * layer.in_channels * a, 2 * layer.out_channels * a),
            sent=outputs * a,
        )
        time = {"pooling": passes * pooling.latency} | traffic.time
        energy = {"pooling": passes * pooling.latency * pooling.power} | traffic.energy
        energy["leakage"] = traffic.leakage * sum(time.values())
        area = {"pooling": pooling.area, "network": h.chip.router_area} | traffic.area
        counts = {"pooling_passes": passes, "input_reads": fetched, "input_writes": stored, "output_writes": outputs}
        return LayerCost(layer.name, layer.kind, 0, 0.0, time, energy, area, traffic.leakage, counts | {"tiles": 1})

    def _elementwise(self, layer: Layer) -> LayerCost:
        """Sums and products of feature maps; of a product of activations only the traffic, of a concatenation none."""
        if layer.kind == "concat":
            return LayerCost(layer.name, layer.kind, 0, 0.0, {}, {}, {})
        h, a, clock = self.hardware, self.bits, self.hardware.digital.period
        words = layer.positions * layer.out_channels
        operands = max(len(layer.inputs), 2)
        parallel = math.ceil(layer.out_channels / h.crossbar.cols)
        rounds = {"add": operands - 1, "multiply": (operands - 1) * a}.get(layer.kind, 0)  # additions for each word
        width = layer.out_channels * a
        traffic = self._traffic(
            reads=(operands * words * a, words * a),
            writes=(operands * words * a, words * a),
            buffers=(parallel, parallel),
            capacity=(operands * width, 2 * width),
            sent=words * a,
        )
        lanes = h.pooling.units * parallel if rounds else 0
        steps = layer.positions * math.ceil(layer.out_channels / lanes) * rounds if rounds else 0
        time = {"digital": clock * steps} | traffic.time
        energy = {"digital": clock * words * rounds * h.adder.power} | traffic.energy
        energy["leakage"] = traffic.leakage * sum(time.values())
        area = {"digital": lanes * h.adder.area} | traffic.area
        fetched = operands * words  # and written before
        counts = {"additions": words * rounds, "input_reads": fetched, "input_writes": fetched, "output_writes": words}
        return LayerCost(layer.name, layer.kind, 0, 0.0, time, energy, area, traffic.leakage, counts)

    def _traffic(
        self,
        reads: tuple[int, int],
        writes: tuple[int, int],
        buffers: tuple[int, int],
        capacity: tuple[int, int],
        sent: int,
    ) -> "_Traffic":
        """Return the cost of buffers and network; pairs are of input and output buffers, in bits."""
        h, buffer = self.hardware, self.hardware.buffer
        time, energy, area, leakage = {}, {}, {}, 0.0
        for name, read, write, number, size in zip(("input", "output"), reads, writes, buffers, capacity, strict=True):
            macro = buffer.macro(size / number)
            time[f"{name} buffer"] = (read + write) / number * self.bit_time
            accesses = read * buffer.read_energy[macro] + write * buffer.write_energy[macro]
            energy[f"{name} buffer"] = accesses / buffer.port_bits
            area[f"{name} buffer"] = number * buffer.area[macro]
            leakage += number * buffer.leakage[macro]
        time["network"] = h.chip.hops * sent / (buffers[1] * h.chip.bandwidth)
        moved = sum(reads) + sum(writes)
        energy["network"] = moved * h.tile.bit_energy + h.chip.hops * sent * h.chip.hop_energy
        return _Traffic(time, energy, area, leakage)


class _Traffic(NamedTuple):
    time: dict[str, float]
    energy: dict[str, float]
    area: dict[str, float]
    leakage: float


class Candidate(NamedTuple):
    """One way to realise a layer: an epitome, or None for dense, and the bits of its weights."""

    spec: EpitomeSpec | None
    bits: int


class Costs(NamedTuple):
    """Additive costs of many designs, arrays of shape ``(designs,)``."""

    latency: np.ndarray
    """Layer after layer [s]."""
    energy: np.ndarray
    """[J]"""
    area: np.ndarray
    """[m^2]"""
    crossbars: np.ndarray
    """int64"""


@dataclasses.dataclass(frozen=True, eq=False)
class CostTable:
    """What every candidate of every layer costs; a design is one candidate per layer.

    Layer-pipelined latency does not add up over layers, so it is not among these costs: use `evaluate`.
    """

    layers: tuple[str, ...]
    """Weighted layers, in the order of the workload."""
    candidates: tuple[tuple[Candidate, ...], ...]
    """For every layer."""
    values: tuple[np.ndarray, ...]
    """For every layer latency [s], energy [J], area [m^2] and crossbars, in an array ``(candidates, 4)``."""
    rest: np.ndarray
    """The same four of all layers without a weight, ``(4,)``."""

    @cached_property
    def _flat(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = [len(values) for values in self.values]
        return np.concatenate(self.values), np.cumsum([0, *sizes[:-1]])

    def evaluate(self, designs: np.ndarray) -> Costs:
        """Return the costs of designs.

        Args:
            designs: int array ``(designs, layers)``, for each layer the index of a candidate.

        Raises:
            TypeError: if the array is not of integers.
            ValueError: if its shape is wrong, or an index is that of no candidate.
        """
        designs = np.asarray(designs)
        if designs.ndim != 2 or designs.shape[1] != len(self.layers):
            raise ValueError(f"designs must have the shape (designs, {len(self.layers)}), got {designs.shape}")
        if not np.issubdtype(designs.dtype, np.integer):
            raise TypeError(f"designs must be an array of integers, got {designs.dtype}")
        values, first = self._flat
        if len(designs):
            for name, own, low, high in zip(
                self.layers, self.values, designs.min(axis=0), designs.max(axis=0), strict=True
            ):
                if low < 0 or high >= len(own):
                    wrong = low if low < 0 else high
                    raise ValueError(f"designs must name candidates 0 to {len(own) - 1} of layer {name!r}, got {wrong}")
        total = np.empty((len(designs), values.shape[1]))
        for start in range(0, len(designs), 2048):  # a part that stays in the cache
            part = designs[start : start + 2048] + first
            np.einsum("dlc->dc", values.take(part, axis=0), out=total[start : start + 2048])
        total += self.rest
        return Costs(total[:, 0], total[:, 1], total[:, 2], np.rint(total[:, 3]).astype(np.int64))

    def design(self, indices: Sequence[int]) -> tuple[Design, dict[str, int]]:
        """Return the epitomes and the bits that one row of indices stands for."""
        chosen = [options[index] for options, index in zip(self.candidates, indices, strict=True)]
        specs = {name: c.spec for name, c in zip(self.layers, chosen, strict=True) if c.spec is not None}
        return Design(specs), {name: c.bits for name, c in zip(self.layers, chosen, strict=True)}


def tabulate(
    workload: Workload,
    hardware: Hardware,
    candidates: Mapping[str, Sequence[Candidate]],
    activation_bits: int = 9,
) -> CostTable:
    """Return the costs of all candidates.

    Args:
        workload: the network.
        hardware: an accelerator with rules ``"events"``; those of MNSIM place all layers together, so that its costs
            do not add up.
        candidates: for every weighted layer the ways to realise it, ``(epitome or None, bits)``.
        activation_bits: of inputs and outputs of every layer.

    Raises:
        ValueError: if a layer has no candidate, or one does not fit it.
    """
    if check_hardware(hardware).rules != "events":
        raise ValueError(f"rules must be 'events' to tabulate costs, which add up over layers, got {hardware.rules!r}")
    model = _Model(hardware, positive("activation_bits", activation_bits))
    names = [layer.name for layer in check_workload(workload).weighted]
    keys("candidates", candidates, names)
    values, rest, options = [], np.zeros(4), []
    for layer in workload.layers:
        if not layer.weighted:
            rest += _sums(model.layer(layer, None, None))
            continue
        own = tuple(Candidate(*candidate) for candidate in candidates[layer.name])
        if not own:
            raise ValueError(f"candidates of layer {layer.name!r} must not be empty")
        for spec in {candidate.spec for candidate in own} - {None}:
            Design({layer.name: spec}).check(workload)
        options.append(own)
        values.append(np.array([_sums(model.layer(layer, spec, bits)) for spec, bits in own]))
    return CostTable(tuple(names), tuple(options), tuple(values), rest)


def _sums(cost: LayerCost) -> tuple[float, float, float, int]:
    return cost.latency, sum(cost.energy.values()), sum(cost.area.values()), cost.crossbars


def evaluate_many(
    workload: Workload,
    hardware: Hardware,
    designs: Iterable[Mapping[str, EpitomeSpec]] | np.ndarray,
    bits: int | Mapping[str, int] = 9,
    activation_bits: int = 9,
    candidates: Mapping[str, Sequence[Candidate]] | None = None,
) -> Costs:
    """Return the additive costs of many designs: as `evaluate` gives them layer after layer.

    Args:
        workload: the network.
        hardware: an accelerator with rules ``"events"``.
        designs: epitomes by layer name, for each design; or, with ``candidates``, an int array ``(designs, layers)``
            of indices into them.
        bits: of the weights, as in `evaluate`; not read with ``candidates``, which have bits of their own.
        activation_bits: of inputs and outputs of every layer.
        candidates: as in `tabulate`, which a search calls once and asks many times.
    """
    if candidates is not None:
        return tabulate(workload, hardware, candidates, activation_bits).evaluate(designs)
    designs = [Design(design).check(workload) for design in designs]
    weights = layer_bits(workload, bits)
    options = {
        name: dict.fromkeys(Candidate(design.get(name), weight) for design in designs or [Design()])
        for name, weight in weights.items()
    }
    index = {name: {option: number for number, option in enumerate(own)} for name, own in options.items()}
    rows = [[index[name][Candidate(d.get(name), weights[name])] for name in weights] for d in designs]
    table = tabulate(workload, hardware, {name: list(own) for name, own in options.items()}, activation_bits)
    return table.evaluate(np.array(rows, dtype=np.int64).reshape(len(designs), len(weights)))
