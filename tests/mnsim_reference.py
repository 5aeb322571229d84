"""Outputs of the simulator MNSIM 2.0: reading them, and how far our numbers are from them.

Anyone can check another run of the simulator: ``python tests/mnsim_reference.py FILE [name=value ...]`` evaluates its
network on the preset ``mnsim-2024`` with some values changed (``adc.bits=8``, ``adc.power="2 mW"``) and prints the
largest relative difference of every column.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from epimlib import Hardware, Workload, evaluate
from epimlib.epitome.workload import Layer
from epimlib.pim.report import CostReport

KINDS = {"conv": "conv", "fc": "linear", "pooling": "pool", "element_sum": "add"}
DIGITAL = (
    "input register",
    "demultiplexer",
    "multiplexer",
    "shift register",
    "adder",
    "output register",
    "joint module",
    "digital",
)
# The simulator's own numbers for converters, as changes of a preset.
ADC_CHOICES = {
    choice: {"adc.bits": bits, "adc.power": power, "adc.rate": rate, "adc.area": area, "adc.kind": kind}
    for choice, bits, power, rate, area, kind in [
        (1, 10, "6.92 mW", "1.5 GHz", "1600 um2", "sar"),
        (2, 8, "2 mW", "1.28 GHz", "1200 um2", "sar"),
        (3, 8, "4 mW", "1.1 GHz", "1650 um2", "sar"),
        (4, 6, "1.26 mW", "1 GHz", "580 um2", "sar"),
        (5, 8, "4 mW", "1.1 GHz", "1650 um2", "sar"),
        (6, 6, "1.26 mW", "1 GHz", "1650 um2", "sar"),
        (7, 4, "0.7 mW", "1 GHz", "500 um2", "sar"),
        (8, 1, "1.629 uW", "1 GHz", "1 um2", "sar"),
        (9, 8, "0.0584 mW", "6 GHz", "15899 um2", "ramp"),
    ]
}
DAC_CHOICES = {
    choice: {"dac.bits": bits, "dac.power": power, "dac.area": area}
    for choice, bits, power, area in [
        (1, 1, "3.9 uW", "0.166 um2"),
        (2, 2, "7.8 uW", "0.332 um2"),
        (3, 3, "15.6 uW", "0.664 um2"),
        (4, 4, "31.2 uW", "1.328 um2"),
        (5, 6, "124.8 uW", "5.312 um2"),
        (6, 8, "499.2 mW", "21.248 um2"),  # the factor of a thousand is the simulator's
    ]
}


def load(path: str | Path) -> tuple[Workload, dict[str, Any] | None, dict[str, Any] | None]:
    """Return the network, and what the simulator says of it pipelined and layer by layer.

    A file of one run without a layer list is pipelined; its network is that of the file named after it, beside it.
    """
    path = Path(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data["layers"], list):
        return load(path.with_name(f"{data['net']}.json"))[0], data, None
    names = [f"{number}_{layer['type']}" for number, layer in enumerate(data["layers"])]
    layers: list[Layer] = []
    for name, layer in zip(names, data["layers"], strict=True):
        inputs = [names[source] if source >= 0 else "input" for source in layer["sources"]]
        kind = KINDS[layer["type"]]
        shape = {"in_channels": layer.get("cin"), "out_channels": layer.get("cout")}
        if kind == "add":
            summand = layers[layer["sources"][0]]
            shape = {"in_channels": summand.out_channels, "out_channels": summand.out_channels}
            shape |= {"in_size": summand.out_size, "out_size": summand.out_size}
        elif kind != "linear":
            shape |= {"kernel_size": layer["kernel"], "stride": layer["stride"], "padding": layer["padding"]}
            shape |= {"in_size": layer["in_hw"], "out_size": layer["out_hw"]}
        layers.append(Layer(name=name, kind=kind, inputs=inputs, **shape))
    first = layers[0]
    workload = Workload(data["net"], (first.in_channels, *first.in_size), layers)
    return workload, data.get("pipe"), data.get("nopipe")


def accumulator_area(workload: Workload, hardware: Hardware, activation_bits: int) -> tuple[float, float]:
    """Return the area of the adders and of the buffer of the accumulator of residual sums [m^2].

    The simulator adds them to its totals of the digital logic and of the buffers, but not to the area of the chip.
    """
    sums = [layer for layer in workload.layers if layer.kind == "add"]
    if not sums:
        return 0.0, 0.0
    adders = sum(layer.out_channels * len(layer.inputs) // 2 for layer in sums)
    words = (layer.out_channels * activation_bits * len(layer.inputs) / 8 for layer in sums)
    macro = hardware.buffer.macro(sum(8 * 2 ** math.ceil(math.log2(word)) for word in words))
    return adders * hardware.adder.area * max(8, activation_bits) / 8, hardware.buffer.area[macro]


def differences(report: CostReport, reference: dict[str, Any]) -> dict[str, float]:
    """Return the largest relative difference between a report and the simulator's numbers, by column."""
    worst: dict[str, float] = {}

    def same(name: str, ours: float, theirs: float) -> None:
        difference = 0.0 if ours == theirs else abs(ours - theirs) / max(abs(ours), abs(theirs))
        worst[name] = max(worst.get(name, 0.0), difference)

    for ours, theirs in zip(report.layers, reference["layers_detail"], strict=True):
        buffers = ("buffer read", "buffer write")
        times = {"buf": buffers, "dac": ["DAC"], "xb": ["crossbar"], "adc": ["ADC"], "dig": DIGITAL, "intra": ["tile"]}
        energies = {"e_xbar": ["crossbar"], "e_adc": ["ADC"], "e_dac": ["DAC"], "e_buf": buffers, "e_dig": DIGITAL}
        for parts, values in ((times, ours.time), (energies, ours.energy)):
            for column, names in parts.items():
                same(column, 1e9 * sum(values.get(name, 0.0) for name in names), theirs[column])
        same("begin", 1e9 * ours.start, theirs["begin"])
        same("finish", 1e9 * ours.finish, theirs["finish"])
        same("energy", 1e9 * sum(ours.energy.values()), theirs["energy"])
        same("area", 1e12 * sum(ours.area.values()), theirs["area"])
        same("tiles", ours.counts["tiles"], theirs["tiles"])
        if ours.kind in ("conv", "linear"):
            same("PE", ours.counts["processing elements"], theirs["PE"])
    same("total latency", 1e9 * report.latency, reference["latency_ns"])
    same("total energy", 1e9 * report.energy, reference["energy_nJ"])
    same("total area", 1e12 * report.area, reference["area_um2"])
    same("crossbars", report.crossbars, reference["physical_xbars"])
    same("tiles", report.counts["tiles"], reference["tiles"])
    return worst


def main(path: str, *changes: str) -> None:
    workload, pipelined, serial = load(path)
    hardware = Hardware.preset("mnsim-2024")
    for name, value in (change.split("=", 1) for change in changes):
        hardware = hardware.replace({name: int(value) if value.isdigit() else value})
    for reference, order in ((pipelined, True), (serial, False)):
        if reference:
            print("pipelined" if order else "layer after layer")
            for column, difference in differences(evaluate(workload, hardware, pipelined=order), reference).items():
                print(f"  {column:<14} {difference:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
