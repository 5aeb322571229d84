"""Mixed precision: Hessian traces, sensitivities, and bits under a crossbar budget."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from epimlib import Design, EpitomeSpec, Hardware, Workload, map_crossbars
from epimlib.epitome.layers import EpitomeConv2d, EpitomeLinear
from epimlib.quant.grid import QuantConfig
from epimlib.quant.precision import hessian_traces, sensitivities
from epimlib.quant.quantize import quantize, weight_quantizer
from epimlib.search.bits import assign_bits, bit_crossbars, front

pytestmark = pytest.mark.usefixtures("one_thread")


def exact_traces(model, batches, loss, without=()):
    """By layer the trace of the Hessian, by torch's own second derivatives, and the variance of Hutchinson's estimator:
    twice the squared elements beside the diagonal, and those that couple the layer with others."""
    ends = (".weight", ".epitome")
    names = [n for n, _ in model.named_parameters() if n.endswith(ends) and n not in without]
    values = tuple(model.get_parameter(name).detach() for name in names)

    def total(*weights):
        given = dict(zip(names, weights, strict=True))
        parts = [loss(torch.func.functional_call(model, given, (x,)), y) * len(x) for x, y in batches]
        return sum(parts) / sum(len(x) for x, _ in batches)

    blocks = torch.autograd.functional.hessian(total, values)
    result = {}
    for i, name in enumerate(names):
        own = blocks[i][i].reshape(values[i].numel(), -1)
        others = sum(block.square().sum() for j, block in enumerate(blocks[i]) if j != i)
        variance = 2 * (own.square().sum() - own.diagonal().square().sum()) + others
        result[name.rpartition(".")[0]] = (own.trace().item(), variance.item())
    return result


def agree(found, exact, probes):
    """Whether estimates lie within four standard errors of the exact traces."""
    assert found.keys() == exact.keys()
    for name, (trace, variance) in exact.items():
        assert abs(found[name] - trace) <= 4 * math.sqrt(variance / probes) + 1e-9 * abs(trace)
        assert math.sqrt(variance / probes) < abs(trace)  # else the comparison would say nothing


class TestHessian:
    def test_one_probe_is_exact_where_the_hessian_is_diagonal(self):
        # The loss is sum a_i w_i^2: the Hessian is diag(2 a), and v_i^2 = 1.
        layer = nn.Linear(6, 1, bias=False).double()
        a = torch.arange(1.0, 7.0, dtype=torch.float64)
        found = hessian_traces(layer, [(torch.eye(6).double(), a)], lambda y, a: (a * y[:, 0] ** 2).sum(), probes=1)
        assert found == {"": pytest.approx(2 * 21)}

    def test_an_mlp_against_the_exact_hessian(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        batches = [(torch.randn(n, 4).double(), torch.randint(0, 3, (n,))) for n in (5, 11)]
        found = hessian_traces(model, batches, probes=300, seed=1)
        agree(found, exact_traces(model, batches, F.cross_entropy), probes=300)
        assert found == hessian_traces(model, batches, probes=300, seed=1)
        assert found != hessian_traces(model, batches, probes=300, seed=2)

    def test_epitomes_and_convolutions_can_be_differentiated_twice(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            EpitomeConv2d(4, 6, 3, epitome=EpitomeSpec(6, 4, (3, 3), (3, 2, 4, 3), wrap="full")),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Conv2d(6, 4, 2, groups=2),
            nn.Flatten(),
            nn.Tanh(),
            EpitomeLinear(4, 3, epitome=EpitomeSpec(3, 4, (1, 1), (3, 2, 1, 1))),
        ).double()
        model.eval()
        batches = [(torch.randn(6, 4, 4, 4).double(), torch.randn(6, 3).double())]
        found = hessian_traces(model, batches, F.mse_loss, probes=100)
        agree(found, exact_traces(model, batches, F.mse_loss, without=["1.weight"]), probes=100)

    def test_float64_is_left_to_the_cpu(self, monkeypatch):
        """Apple's GPUs have none; and the signs are drawn on the CPU, whatever the default device."""
        moved, cpu, double = [], torch.Tensor.cpu, torch.Tensor.double

        def on_the_cpu(tensor):
            assert any(tensor is t for t in moved)
            return double(tensor)

        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(cpu(tensor)) or moved[-1])
        monkeypatch.setattr(torch.Tensor, "double", on_the_cpu)
        layer, batch = nn.Linear(6, 1, bias=False), (torch.eye(6), torch.arange(1.0, 7.0))
        with torch.device("meta"):
            found = hessian_traces(layer, [batch], lambda y, a: (a * y[:, 0] ** 2).sum(), probes=2)
        assert found == {"": pytest.approx(2 * 21)}

    def test_wrong_requests(self):
        model = nn.Linear(2, 2)
        with pytest.raises(ValueError, match="batches must hold at least one batch, got none"):
            hessian_traces(model, [])
        batch = (torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
        with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
            hessian_traces(model, [batch], probes=0)
        with pytest.raises(ValueError, match="layer '' is quantized already"):
            hessian_traces(quantize(model, QuantConfig()), [batch])


class TestSensitivity:
    def test_a_dense_layer_has_the_formula_of_hawq(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
        config = QuantConfig(range="mse")
        found = sensitivities(model, {"0": 30.0}, config, [3, 5])
        weight = model[0].weight.detach()
        for bits in (3, 5):
            quantizer = weight_quantizer(model[0], QuantConfig(bits=bits, range="mse")).eval()
            distance = (quantizer(weight) - weight).square().sum().item()
            assert found["0"][bits] == pytest.approx(30.0 / 108 * distance, rel=1e-4)
        assert found["0"][3] > found["0"][5]
        assert sensitivities(model, {"0": -1.0}, config, [3]) == {"0": {3: 0.0}}

    def test_bits_may_come_from_a_generator(self):
        model, traces = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), {"0": 1.0, "1": 2.0}
        found = sensitivities(model, traces, QuantConfig(), (b for b in (3, 5)))
        assert found == sensitivities(model, traces, QuantConfig(), [3, 5])
        assert list(found["1"]) == [3, 5]

    def test_an_epitome_counts_its_error_as_often_as_it_is_sampled(self):
        torch.manual_seed(0)
        spec = EpitomeSpec(8, 16, (3, 3), (8, 8, 4, 4))
        model = nn.Sequential(EpitomeConv2d(16, 8, 3, epitome=spec))
        found = sensitivities(model, {"0": 7.0}, QuantConfig(), [3])["0"][3]
        change = quantize(model, QuantConfig(bits=3)).eval()[0].weight - model[0].weight
        assert found == pytest.approx(7.0 / change.numel() * change.square().sum().item(), rel=1e-4)

    def test_weighing_by_usage_predicts_the_loss_better_than_a_flat_curvature(self):
        """Independent inputs give every weight the same curvature, and an element the curvature of all its uses."""
        torch.manual_seed(0)
        spec = EpitomeSpec(8, 24, (3, 3), (8, 8, 4, 4))
        layer = EpitomeConv2d(24, 8, 3, bias=False, epitome=spec).double()
        usage = torch.from_numpy(spec.plan().usage).double()
        x = torch.randn(64, 24, 3, 3).double()
        target = layer(x).detach()
        trace = hessian_traces(layer, [(x, target)], F.mse_loss, probes=100)[""]
        mean, flat, exact = trace / math.prod(spec.shape), trace / usage.numel(), []
        estimates = {"by usage": [], "flat": []}
        for often in (True, False):  # an error where elements are used often, and where they are not
            error = torch.randn_like(usage) * 0.01 * ((usage > usage.median()) == often)
            with torch.no_grad():
                moved = F.conv2d(x, (layer.epitome + error).reshape(-1)[torch.from_numpy(spec.plan().index)])
            exact.append(F.mse_loss(moved, target).item())
            estimates["by usage"].append(mean / 2 * (usage * error**2).sum().item())
            estimates["flat"].append(flat / 2 * (error**2).sum().item())
        assert estimates["by usage"] == pytest.approx(exact, rel=0.15)
        assert not all(a == pytest.approx(b, rel=0.3) for a, b in zip(estimates["flat"], exact, strict=True))


@st.composite
def problems(draw):
    names = [f"layer{i}" for i in range(draw(st.integers(1, 5)))]
    bits = draw(st.lists(st.integers(2, 9), min_size=1, max_size=4, unique=True))
    losses = st.one_of(st.floats(0, 1), st.floats(1e-12, 1e-6), st.just(0.0))
    sensitivity = {name: {b: draw(losses) for b in bits} for name in names}
    crossbars = {name: {b: draw(st.integers(1, 40)) for b in bits} for name in names}
    least, most = (sum(pick(by_bits.values()) for by_bits in crossbars.values()) for pick in (min, max))
    return sensitivity, crossbars, draw(st.integers(least, most))


def brute_force(sensitivity, crossbars, budget):
    best = math.inf
    for choice in itertools.product(*(by_bits for by_bits in sensitivity.values())):
        pairs = list(zip(sensitivity, choice, strict=True))
        if sum(crossbars[name][b] for name, b in pairs) <= budget:
            best = min(best, math.fsum(sensitivity[name][b] for name, b in pairs))
    return best


class TestAssignment:
    @given(problems())
    @settings(max_examples=60)
    def test_no_other_choice_is_better(self, problem):
        sensitivity, crossbars, budget = problem
        found = assign_bits(*problem)
        assert found.crossbars == sum(crossbars[name][b] for name, b in found.bits.items()) <= budget
        assert found.sensitivity == pytest.approx(brute_force(*problem), rel=1e-9, abs=1e-18)
        assert list(found.bits) == list(sensitivity)

    def test_a_network_against_dynamic_programming(self):
        rng = np.random.default_rng(0)
        workload, hardware = Workload.load("resnet50"), Hardware.preset("default")
        design = Design.uniform(workload, rows=1024, cols=256)
        bits = (2, 3, 5, 7, 9)
        crossbars = bit_crossbars(workload, hardware, design, bits)
        for b in bits:
            assert sum(c[b] for c in crossbars.values()) == map_crossbars(workload, hardware, design, b).crossbars
        sensitivity = {name: {b: 10 ** rng.uniform(-6, 0) * 4.0**-b for b in bits} for name in crossbars}
        least, most = (sum(pick(c.values()) for c in crossbars.values()) for pick in (min, max))
        budget = (2 * least + most) // 3
        best = np.zeros(budget + 1)  # least loss of the layers so far within every budget
        for name, by_bits in crossbars.items():
            options = [np.full(budget + 1, np.inf) for _ in bits]
            for option, b in zip(options, bits, strict=True):
                option[by_bits[b] :] = best[: budget + 1 - by_bits[b]] + sensitivity[name][b]
            best = np.min(options, axis=0)
        found = assign_bits(sensitivity, crossbars, budget)
        assert found.sensitivity == pytest.approx(best[budget], rel=1e-12)
        assert f"of {budget:,} crossbars" in str(found)
        assert map_crossbars(workload, hardware, design, found.bits).crossbars == found.crossbars

        fronts = front(sensitivity, crossbars, points=5)
        assert [a.budget for a in (fronts[0], fronts[-1])] == [least, most]
        losses = [a.sensitivity for a in fronts]
        assert losses == sorted(losses, reverse=True)
        assert fronts[-1].sensitivity == pytest.approx(sum(min(s.values()) for s in sensitivity.values()))

    def test_wrong_requests(self):
        sensitivity, crossbars = {"a": {2: 1.0, 3: 0.5}}, {"a": {2: 4, 3: 8}}
        with pytest.raises(ValueError, match="budget must be at least 4, what the cheapest choice .* needs, got 3"):
            assign_bits(sensitivity, crossbars, 3)
        for wrong in ({"b": {2: 4, 3: 8}}, {"a": {2: 4, 5: 8}}):
            with pytest.raises(ValueError, match="must have the same layers with the same choices of bits"):
                assign_bits(sensitivity, wrong, 9)
        with pytest.raises(ValueError, match="points must be at least 2, got 1"):
            front(sensitivity, crossbars, points=1)

    def test_choosing_bits_needs_no_torch(self):
        import subprocess
        import sys

        code = (
            "import sys; from epimlib.search.bits import assign_bits; "
            "assign_bits({'a': {2: 1.0}}, {'a': {2: 4}}, 4); assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
