"""Spiking layers: what they cost, which can fire without a converter, and neurons in integers against fixed numbers."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epimlib import Design, Hardware, Workload, map_crossbars
from epimlib.epitome.workload import Layer
from epimlib.pim.events import layer_events
from epimlib.related.clocked import IntegerLIF, cycles, encode, leak, lfsr
from epimlib.related.loopnest import packed
from epimlib.related.spiking import LIF_28NM, Neuron, run, spike_counts, spiking_cost

DEFAULT = Hardware.preset("default")
RESNET = Workload.load("resnet50")
FC = Workload("fc", (784, 1, 1), (Layer("fc", "linear", 784, 1000),))
ONE_CROSSBAR = DEFAULT.replace({"crossbar.rows": 1024, "crossbar.cell_bits": 4})  # holds 784 rows of 5 bits


@pytest.mark.parametrize(("steps", "conversions"), [(1, 14_000), (8, 112_000), (25, 350_000)])
def test_conversions_of_a_spiking_layer(steps, conversions):
    (layer,) = spiking_cost(FC, DEFAULT, LIF_28NM, bits=5, steps=steps)
    assert (layer.keeps, layer.neurons) == ("its columns lie on 4 crossbars and its weights lie on 2 slices", 0)
    assert layer.events.adc_conversions == conversions
    assert layer.energy["ADC"] == pytest.approx(conversions * 1.5625e-12)
    assert layer.energy["neurons"] == 0


def test_eight_steps_are_read_as_often_as_activations_of_eight_bits():
    (layer,) = spiking_cost(FC, DEFAULT, None, bits=5, steps=8)
    once = layer_events(FC.layers[0], None, DEFAULT, 5, 8)
    for name in ("adc_conversions", "crossbar_reads", "dac_conversions", "shift_adds", "steps"):
        assert getattr(layer.events, name) == getattr(once, name), name


def test_a_layer_whose_columns_are_whole_fires_in_place_of_converting():
    (layer,) = spiking_cost(FC, ONE_CROSSBAR, LIF_28NM, bits=5, steps=25)
    (kept,) = spiking_cost(FC, ONE_CROSSBAR, None, bits=5, steps=25)
    assert (layer.keeps, layer.neurons, layer.events.adc_conversions) == ("", 1000, 0)
    assert layer.energy["neurons"] == pytest.approx(40.25e-12)  # 25,000 spikes
    assert layer.time == pytest.approx(83.33e-6, rel=1e-3)
    assert layer.energy["ADC"] == 0 < kept.energy["ADC"]
    for component in ("crossbar", "DAC"):
        assert layer.energy[component] == kept.energy[component] > 0


def test_the_neuron_beside_the_converter():
    adc = DEFAULT.adc
    conversion = adc.power / adc.rate
    assert conversion / LIF_28NM.energy == pytest.approx(970.5, abs=0.05)
    assert LIF_28NM.energy / 0.25**2 == pytest.approx(25.76e-15)
    assert 1e-6 / LIF_28NM.area == pytest.approx(29_412, abs=0.5)
    assert adc.area / LIF_28NM.area == pytest.approx(35.3, abs=0.05)
    assert adc.rate / LIF_28NM.rate == pytest.approx(4267, abs=0.5)
    assert 1000 * LIF_28NM.energy == pytest.approx(1.61e-12)


@pytest.mark.parametrize(("design", "layers"), [(None, 20), ((256, 256), 54), ((1024, 256), 20)])
def test_layers_of_resnet50_that_need_no_adc(design, layers):
    design = Design.uniform(RESNET, *design) if design else {}
    found = spiking_cost(RESNET, DEFAULT, LIF_28NM, design, bits=3)
    assert (len(found), sum(not layer.keeps for layer in found)) == (54, layers)
    assert all(layer.keeps for layer in spiking_cost(RESNET, DEFAULT, LIF_28NM, design, bits=4))


def test_copies_need_no_neuron():
    design = Design.uniform(RESNET, 256, 256)
    found = {layer.name: layer for layer in spiking_cost(RESNET, DEFAULT, LIF_28NM, design, bits=3)}
    without = spiking_cost(RESNET, DEFAULT.replace({"reuse": False}), LIF_28NM, design, bits=3)
    for layer, other in zip(RESNET.weighted, without, strict=True):
        assert other.neurons == layer.positions * layer.out_channels
        assert found[layer.name].neurons == other.neurons - found[layer.name].events.copies
    assert sum(layer.neurons for layer in found.values()) < sum(layer.neurons for layer in without)


@pytest.mark.parametrize(
    ("hardware", "options", "reason"),
    [
        (DEFAULT.replace({"crossbar.polarity": 1}), {}, "an offset is subtracted from its sums"),
        (DEFAULT, {"coefficients": "sign"}, "its rounds are weighed"),
    ],
)
def test_what_else_needs_an_adc(hardware, options, reason):
    network = Workload("fc", (64, 1, 1), (Layer("fc", "linear", 64, 64),))
    design = Design.uniform(network, 32, 32, **options)
    bits = 2 if hardware.crossbar.polarity == 1 else 3
    (layer,) = spiking_cost(network, hardware, LIF_28NM, design, bits=bits)
    assert layer.keeps == reason


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 12), st.booleans())
def test_steps_multiply_events_and_only_spikes_count_for_neurons(inputs, outputs, steps, kept):
    network = Workload("fc", (inputs, 1, 1), (Layer("fc", "linear", inputs, outputs),))
    neuron = None if kept else LIF_28NM
    (once,) = spiking_cost(network, DEFAULT, neuron, bits=3)
    (layer,) = spiking_cost(network, DEFAULT, neuron, bits=3, steps=steps, spikes={"fc": 7})
    assert layer.events == steps * once.events
    assert layer.time == pytest.approx(steps * once.time)
    assert bool(layer.keeps) == (kept or inputs > 256)
    assert layer.energy["neurons"] == (0 if layer.keeps else 7 * LIF_28NM.energy)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: spiking_cost(FC, DEFAULT, LIF_28NM, steps=0), "^steps must be at least 1, got 0$"),
        (lambda: spiking_cost(FC, DEFAULT, LIF_28NM, bits=1), "bits must be at least 2"),
        (lambda: spiking_cost(FC, DEFAULT, LIF_28NM, spikes={"f": 1}), "spikes name layer 'f', which 'fc' lacks"),
        (lambda: spiking_cost(FC, DEFAULT, LIF_28NM, spikes={}), "spikes lack layer 'fc'"),
        (lambda: spiking_cost(FC, Hardware.preset("mnsim-2024"), None), "rules of the hardware must be 'events'"),
        (lambda: Neuron(0.0, 1.0, 1.0, ""), "^energy of a neuron must be positive, got 0.0$"),
        (lambda: Neuron(1.0, 1.0, math.nan, ""), "^rate of a neuron must be positive, got nan$"),
        (lambda: lfsr(0), "^steps must be at least 1, got 0$"),
        (lambda: lfsr(4, 0), "^seed must be at least 1, got 0$"),
        (lambda: lfsr(4, 1 << 16), "^seed must be at most 65535, got 65536$"),
        (lambda: encode(np.array([256]), 4), "^images must be whole numbers from 0 to 255, got 256 to 256$"),
        (lambda: encode(np.array([0.5]), 4), "^images must be whole numbers from 0 to 255, got float64$"),
        (lambda: encode(np.array([1]), 0), "^steps must be at least 1, got 0$"),
        (lambda: layer_of([[1]], [1 << 15]), "^thresholds must fit 16 bits, got 32768 to 32768$"),
        (lambda: layer_of([[9]], [1], bits=4), "^weights must fit 4 bits, got 9 to 9$"),
        (lambda: layer_of([[1]], [1], inhibition=-9, bits=4), "^inhibition must fit 4 bits, got -9 to -9$"),
        (lambda: layer_of([[1]], [1, 2]), r"must be \(neurons, inputs\) and \(neurons,\), got \(1, 1\) and \(2,\)"),
        (lambda: cycles(np.ones(3), np.ones(2), 1, 1), r"of the same steps, got \(3,\) and \(2,\)"),
    ],
)
def test_refusals_name_the_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def layer_of(weights, thresholds, **options):
    return IntegerLIF(np.array(weights), np.array(thresholds), **options)


def test_weights_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match=r"^weights must be whole numbers, got float64$"):
        layer_of([[0.5]], [1])


def test_the_shift_register():
    assert lfsr(10).tolist() == [5, 32770, 49153, 57344, 28672, 47104, 56320, 60928, 30464, 48000]
    states = lfsr(65_536)
    assert len(set(states[:-1].tolist())) == 65_535
    assert states[-1] == 5


def test_a_pixel_spikes_in_2p_minus_1_steps_of_a_period():
    counts = sum(spikes.astype(int) for spikes in encode(np.arange(256), 65_535))
    assert counts[0] == 0
    assert (counts[1:] == 2 * np.arange(1, 256) - 1).all()
    assert counts[[1, 128, 255]].tolist() == [1, 255, 509]


@pytest.mark.parametrize(("brightest", "active", "clock"), [(255, 40, 34_860), (200, 35, 30_940), (128, 24, 22_316)])
def test_active_steps_of_3500(brightest, active, clock):
    found = np.array([spikes.any() for spikes in encode(np.array([brightest, 3]), 3500)])
    assert found.sum() == active
    assert cycles(found, np.zeros(3500, dtype=bool), 784, 400) == clock
    fired = np.zeros(3500, dtype=bool)
    fired[[5, 9, 3499]] = True  # nothing comes after the last step
    assert cycles(found, fired, 784, 400) == clock + 800


def test_the_leak():
    assert [leak(1024), leak(1000), leak(-120)] == [1023, 1000, -119]


def test_a_walk_in_integers():
    layer = layer_of([[60, 0], [30, 30]], [104, 104], inhibition=-120, reset=40)
    inputs = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=bool)
    # first neuron: 100, 160 fires, 40; second: 70, 130 fires, 40. Each inhibits the other: -80 and -80 + 30, then leaks
    walk = [fired[0].tolist() for fired in layer.run(inputs[:, None])]
    assert walk == [[False, False], [True, True], [False, False], [False, False]]


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_integer_neurons_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    neurons, inputs, images, steps = rng.integers(1, 5, 4)
    layer = layer_of(rng.integers(-60, 90, (neurons, inputs)), rng.integers(20, 100, neurons), inhibition=-30,
                     reset=int(rng.integers(-5, 15)), shift=int(rng.integers(1, 6)), bits=8)  # fmt: skip
    spikes = rng.random((steps, images, inputs)) < 0.5
    found = np.array(list(layer.run(spikes)))
    for image in range(images):
        v, before = [layer.reset] * neurons, [False] * neurons
        for step in range(steps):
            now = []
            for n in range(neurons):
                v[n] = v[n] - (v[n] >> layer.shift)
                v[n] += sum(int(w) for w, spike in zip(layer.weights[n], spikes[step, image], strict=True) if spike)
                v[n] -= 30 * sum(fired for other, fired in enumerate(before) if other != n)
                v[n] = max(-128, min(127, v[n]))
                now.append(v[n] > layer.thresholds[n])
                v[n] = layer.reset if now[n] else v[n]
            before = now
            assert found[step, image].tolist() == now


def test_memories_and_crossbars_of_784_by_400():
    assert packed(400, 36, 5) == 58
    network = Workload("fc", (784, 1, 1), (Layer("fc", "linear", 784, 400),))
    assert map_crossbars(network, DEFAULT, bits=6).crossbars == 48
    assert 5 * 784 * 400 == 1_568_000


def spiking(snntorch, torch):
    """Return a network of two layers of snntorch's neurons."""
    torch.manual_seed(0)
    neuron = {"beta": 0.9, "init_hidden": True}
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), snntorch.Leaky(**neuron), torch.nn.Flatten(), torch.nn.Linear(144, 5),
        snntorch.Leaky(**neuron),
    )  # fmt: skip


def test_spikes_are_counted_behind_their_layer():
    snntorch, torch = pytest.importorskip("snntorch"), pytest.importorskip("torch")
    model = spiking(snntorch, torch)
    inputs = (torch.rand(6, 3, 1, 8, 8) > 0.5).float() * 3
    counts = spike_counts(model, inputs)
    seen = []
    handle = model[1].register_forward_hook(lambda _, __, output: seen.append(output.sum().item()))
    with torch.no_grad():
        outputs, again = run(model, inputs), run(model, inputs)
    handle.remove()
    assert torch.equal(outputs, again)  # each run begins without a charge
    assert list(counts) == ["0", "3"]
    assert counts["0"] == pytest.approx(sum(seen[:6]) / 3)
    assert counts["3"] == pytest.approx(outputs.sum().item() / 3)
    assert counts["0"] > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_without_spiking_neurons_or_without_steps_is_refused():
    snntorch, torch = pytest.importorskip("snntorch"), pytest.importorskip("torch")
    with pytest.raises(ValueError, match="at least 1 step, got 0 of them and 2 steps"):
        run(torch.nn.Linear(3, 3), torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="at least 1 step, got 2 of them and 0 steps"):
        spike_counts(spiking(snntorch, torch), torch.zeros(0, 1, 1, 8, 8))


def test_the_membrane_of_snntorch():
    snntorch, torch = pytest.importorskip("snntorch"), pytest.importorskip("torch")
    neuron, membrane = snntorch.Leaky(beta=0.9), torch.zeros(1)
    walk = []
    for current in (0.4, 0.5, 0.3, 0.9, 0.0, 0.2):
        spike, membrane = neuron(torch.tensor([current]), membrane)
        walk.append((int(spike), round(membrane.item(), 5)))
    assert walk == [(0, 0.4), (0, 0.86), (1, 1.074), (0, 0.8666), (0, 0.77994), (0, 0.90195)]


def test_the_neuron_of_lite_snn_is_one_of_snntorch():
    snntorch, torch = pytest.importorskip("snntorch"), pytest.importorskip("torch")
    inputs = torch.rand(50, 20, generator=torch.Generator().manual_seed(0)) - 0.1
    leaky = snntorch.Leaky(beta=0.2, threshold=0.5, reset_mechanism="zero")
    membrane, theirs, fired = torch.zeros(20), torch.zeros(20), 0.0
    for current in inputs:
        spike, membrane = leaky(current, membrane)
        theirs = theirs + current
        expected = (theirs > 0.5).float()
        theirs = 0.2 * theirs * (1 - expected)
        assert torch.equal(spike, expected)
        fired += spike.sum().item()
    assert 0 < fired < inputs.numel()


@pytest.mark.parametrize("module", ["epimlib.related.spiking", "epimlib.related.clocked"])
def test_neither_torch_nor_snntorch_is_needed_to_import(module):
    program = f"import sys, {module}; print(*[name for name in ('torch', 'snntorch') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
