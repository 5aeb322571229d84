"""What a layer costs whose inputs are spikes, and which layers can fire on their columns, without a converter.

A spike is an unsigned input of one bit, and a network of spiking neurons is run for some time steps. Where a column's
sum is complete on one crossbar, an analog neuron can take the place of the ADC: its membrane adds up row groups, rounds
and steps. Nothing adds two crossbars or two bit slices without a conversion. The neuron's energy and area are those of
Besrour et al. (2024), of whose circuit we know no more than the abstract.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epimlib._checks import positive, same_layers
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Layer, Workload, check_workload
from epimlib.pim.cost import CostModel
from epimlib.pim.events import Events, layer_events, position_events
from epimlib.pim.hardware import Crossbar, Hardware, check_hardware
from epimlib.pim.mapping import bit_slices, layer_bits, map_layer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Neuron:
    """An analog neuron.

    Attributes:
        energy: of one spike [J]; synapses and wires are not in it.
        area: [m^2].
        rate: most spikes per second [Hz].
        source: of the three numbers.

    Raises:
        ValueError: if one of them is not positive.
    """

    energy: float
    area: float
    rate: float
    source: str

    def __post_init__(self) -> None:
        for name in ("energy", "area", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of a neuron must be positive, got {getattr(self, name)}")


LIF_28NM = Neuron(1.61e-15, 34e-12, 300e3, "abstract of arXiv 2408.07734: 28 nm, 250 mV")
"""The sub-threshold leaky integrate-and-fire neuron."""


@dataclass(frozen=True)
class SpikingLayer:
    """What one layer costs for one image, all steps together.

    Attributes:
        name: of the layer.
        keeps: why it keeps its ADCs; empty if neurons stand on its columns.
        events: what happens; if it has no ADCs, no sum is converted or joined, and spikes are written in place of sums.
        neurons: on its columns, one for each output that is no copy; 0 if it keeps its ADCs.
        energy: by component [J]; ``"neurons"`` are the spikes that these fire. Buffers, network and the arithmetic of
            digital neurons are not counted.
        time: of all reads, and with neurons at least ``steps / rate`` [s].
    """

    name: str
    keeps: str
    events: Events
    neurons: int
    energy: Mapping[str, float]
    time: float


def spiking_cost(
    workload: Workload,
    hardware: Hardware,
    neuron: Neuron | None,
    design: Mapping[str, EpitomeSpec] | None = None,
    bits: int | Mapping[str, int] = 9,
    steps: int = 1,
    spikes: Mapping[str, float] | None = None,
) -> tuple[SpikingLayer, ...]:
    """Return what every weighted layer costs if all its inputs are spikes: ``steps`` times the events of one input bit.

    Args:
        workload: the network; of a spiking one the twin with ``nn.ReLU`` for its neurons is traced.
        hardware: the accelerator, with rules ``"events"``.
        neuron: that stands on the columns where it can; None: every layer keeps its ADCs.
        design: epitomes by layer name.
        bits: of a weight, sign included; one number, or one for each layer.
        steps: time steps of one image.
        spikes: fired by the neurons of each layer for one image, as `spike_counts` returns; None: by all in each step.

    Raises:
        TypeError, ValueError: as `evaluate`; if there is no step, or ``spikes`` do not name the weighted layers.
    """
    design = Design(design).check(check_workload(workload))
    positive("steps", steps)
    if spikes is not None:
        same_layers("spikes", spikes, [layer.name for layer in workload.weighted], repr(workload.name))
    if check_hardware(hardware).rules != "events":
        raise ValueError(f"rules of the hardware must be 'events', got {hardware.rules!r}")
    model, widths, found = CostModel(hardware, 1), layer_bits(workload, bits), []
    for layer in workload.weighted:
        width, spec = widths[layer.name], design.get(layer.name)
        keeps = "there are no neurons for it" if neuron is None else why_adc(layer, spec, hardware.crossbar, width)
        events, neurons = layer_events(layer, spec, hardware, width, 1), 0
        reads = layer.positions * position_events(layer, spec, hardware)[1] * model.t_read
        if keeps:
            time = steps * max(reads, events.steps * model.t_convert)
        else:
            neurons = layer.positions * (spec.plan().own_channels if spec and hardware.reuse else layer.out_channels)
            none = dict.fromkeys(("adc_conversions", "shift_adds", "joins", "output_reads"), 0)
            events = dataclasses.replace(events, **none, output_writes=layer.positions * layer.out_channels)
            time = steps * max(reads, 1 / neuron.rate)
        events = steps * events
        energy = {
            component: math.fsum(getattr(events, name) * each for name, each in costs.items())
            for component, costs in model.energy.items()
        }
        fired = neurons * steps if spikes is None else spikes[layer.name]
        energy["neurons"] = fired * neuron.energy if neurons else 0.0
        found.append(SpikingLayer(layer.name, keeps, events, neurons, energy, time))
    return tuple(found)


def why_adc(layer: Layer, spec: EpitomeSpec | None, crossbar: Crossbar, bits: int) -> str:
    """Return why a layer must convert its column sums, or an empty text if a neuron can stand on its columns."""
    mapped = map_layer(layer, spec, crossbar, bit_slices(bits, crossbar))
    reasons = {
        f"its columns lie on {mapped.packing.row_blocks} crossbars": mapped.packing.row_blocks > 1,
        f"its weights lie on {mapped.slices} slices": mapped.slices > 1,
        "an offset is subtracted from its sums": crossbar.polarity == 1,
        "its rounds are weighed": spec is not None and spec.weighed,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def run(model: "torch.nn.Module", inputs: "torch.Tensor") -> "torch.Tensor":
    """Return the spikes that a network puts out, (steps, images, outputs), from inputs (steps, images, ...).

    Its neurons are snntorch's, which keep their charge themselves (``init_hidden=True``); they begin without one.

    Raises:
        ValueError: if the network has no such neurons, or there is no step.
    """
    import torch

    neurons = [module for module in model.modules() if getattr(module, "init_hidden", False)]
    if not neurons or not len(inputs):
        given = f"{len(neurons)} of them and {len(inputs)} steps"
        raise ValueError(f"a spiking network needs neurons with init_hidden=True and at least 1 step, got {given}")
    for neuron in neurons:
        neuron.reset_mem()
    return torch.stack([model(step) for step in inputs])


def spike_counts(model: "torch.nn.Module", inputs: "torch.Tensor") -> dict[str, float]:
    """Return the spikes per image that the neurons behind each layer with a matrix fire, over all steps.

    Arguments and errors as for `run`.
    """
    import torch

    counts, last, hooks = {}, [""], []

    def count(_: object, __: object, output: object) -> None:
        fired = output[0] if isinstance(output, tuple) else output
        counts[last[0]] = counts.get(last[0], 0.0) + fired.sum().item() / len(fired)

    for name, module in model.named_modules():
        if getattr(module, "init_hidden", False):
            hooks.append(module.register_forward_hook(count))
        elif hasattr(module, "epitome") or isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: last.__setitem__(0, name)))
    try:
        with torch.no_grad():
            run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts
