"""What one image costs: every layer by the equations of `epimlib.pim.cost`, then the layers in time."""

from collections.abc import Mapping

import numpy as np

from epimlib._checks import positive
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Workload, check_workload
from epimlib.pim import mnsim
from epimlib.pim.cost import CostModel, LayerCost
from epimlib.pim.hardware import Hardware, check_hardware
from epimlib.pim.mapping import bit_slices, layer_bits, map_layer
from epimlib.pim.pipeline import pipeline
from epimlib.pim.report import CostReport


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
        layers = mnsim.layer_costs(workload, hardware, design, weights, activation_bits, pipelined)
        baseline = mnsim.crossbars(workload, hardware, baseline_bits)
    else:
        model = CostModel(hardware, activation_bits)
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


def _schedule(workload: Workload, costs: list[LayerCost], pipelined: bool) -> list[LayerCost]:
    if pipelined:  # all positions of a layer take equally long
        times = [cost.latency / layer.positions for layer, cost in zip(workload.layers, costs, strict=True)]
        spans = pipeline(workload, times)
    else:
        finish = np.cumsum([cost.latency for cost in costs]).tolist()
        spans = list(zip([0.0, *finish[:-1]], finish, strict=True))
    return [
        LayerCost(**vars(cost) | {"name": layer.name, "start": start, "finish": finish})
        for layer, cost, (start, finish) in zip(workload.layers, costs, spans, strict=True)
    ]
