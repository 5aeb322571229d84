"""Cost of a network: counted events times what each costs.

The equations of one layer. `epimlib.pim.evaluate` puts the layers of a network together, `epimlib.pim.candidates` adds
up very many designs. These are our own rules; those of the simulator MNSIM are in `epimlib.pim.mnsim`.

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
from typing import NamedTuple

from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Layer
from epimlib.pim.events import layer_events
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import bit_slices, map_layer, rows_in_use
from epimlib.pim.report import LayerCost


def _window_rows(layer: Layer) -> int:
    """Return the rows of the feature map from the first to the last that a window touches."""
    return layer.dilation[0] * (layer.kernel_size[0] - 1) + 1


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
