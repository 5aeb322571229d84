"""Searches against brute force over every design of small problems, and against each other on ResNet-50."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epimlib import Design, EpitomeSpec, Hardware, Workload, evaluate
from epimlib.layers import EpitomeConv2d
from epimlib.pim.cost import Candidate, CostTable, tabulate
from epimlib.search import SearchResult, candidates, copied_channels, evolve, fit_error, pareto, solve_exact

OBJECTIVES = ["latency", "energy", "edp"]


@st.composite
def tables(draw):
    """Tables of made-up costs with two to four layers."""
    number = st.integers(1, 30)
    values = [
        np.array(
            [[*(draw(number) for _ in range(3)), draw(number)] for _ in range(draw(st.integers(1, 5)))], dtype=float
        )
        for _ in range(draw(st.integers(2, 4)))
    ]
    names = tuple(f"layer{i}" for i in range(len(values)))
    options = tuple(tuple(Candidate(None, bits + 2) for bits in range(len(own))) for own in values)
    return CostTable(names, options, tuple(values), np.array([draw(number), draw(number), 0.0, 0.0]))


def every_design(table, objective, budget, proxy=None, limit=math.inf):
    """The least objective by trying all designs, or None if none fits the budget."""
    best = None
    for choice in itertools.product(*(range(len(own)) for own in table.values)):
        latency, energy, _, crossbars = table.rest + sum(o[i] for o, i in zip(table.values, choice, strict=True))
        error = sum(proxy[n][i] for n, i in zip(table.layers, choice, strict=True)) if proxy else 0
        if crossbars <= budget and error <= limit:
            value = {"latency": latency, "energy": energy, "edp": latency * energy}[objective]
            best = value if best is None else min(best, value)
    return best


@pytest.fixture(scope="module")
def resnet50():
    workload = Workload.load("resnet50")
    return tabulate(workload, Hardware.preset("default"), candidates(workload))


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=12)
@given(table=tables(), slack=st.integers(0, 40))
def test_the_exact_search_finds_what_brute_force_finds(objective, table, slack):
    budget = int(sum(own[:, 3].min() for own in table.values)) + slack
    expected = every_design(table, objective, budget)
    result = solve_exact(table, objective, budget=budget)
    assert result.value == pytest.approx(expected, rel=2e-6)
    assert result.crossbars <= budget
    assert 0 <= result.gap <= 2e-6


@settings(max_examples=15)
@given(table=tables(), slack=st.integers(0, 40), data=st.data())
def test_a_limit_on_a_proxy_is_kept(table, slack, data):
    proxy = {n: [data.draw(st.integers(0, 9)) for _ in own] for n, own in zip(table.layers, table.values, strict=True)}
    budget = int(sum(own[:, 3].min() for own in table.values)) + slack
    limit = sum(map(min, proxy.values())) + data.draw(st.integers(0, 9))
    expected = every_design(table, "latency", budget, proxy, limit)
    if expected is not None:
        result = solve_exact(table, "latency", budget=budget, proxy=proxy, limit=limit)
        assert result.value == pytest.approx(expected)
        assert sum(proxy[n][i] for n, i in zip(table.layers, result.choice, strict=True)) <= limit
    else:
        with pytest.raises(ValueError, match=f"no design meets both budget {budget} and limit {limit}; allow more"):
            solve_exact(table, "latency", budget=budget, proxy=proxy, limit=limit)


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=10)
@given(table=tables(), slack=st.integers(0, 40))
def test_the_evolution_finds_the_optimum_of_small_problems(objective, table, slack):
    budget = int(sum(own[:, 3].min() for own in table.values)) + slack
    options = {"population": 64, "generations": 30, "progress": False}
    result = evolve(table, objective, budget=budget, **options)
    assert result.value == pytest.approx(every_design(table, objective, budget))
    assert result.crossbars <= budget
    assert result.gap is None


@settings(max_examples=15)
@given(table=tables(), slack=st.integers(0, 40), data=st.data())
def test_the_evolution_keeps_two_limits_and_finds_the_optimum(table, slack, data):
    proxy = {n: [data.draw(st.integers(0, 9)) for _ in own] for n, own in zip(table.layers, table.values, strict=True)}
    budget = int(sum(own[:, 3].min() for own in table.values)) + slack
    limit = sum(map(min, proxy.values())) + data.draw(st.integers(0, 9))
    expected = every_design(table, "energy", budget, proxy, limit)
    options = {"budget": budget, "proxy": proxy, "limit": limit, "population": 64, "generations": 30}
    if expected is not None:
        result = evolve(table, "energy", progress=False, **options)
        assert result.value == pytest.approx(expected)
    else:
        with pytest.raises(RuntimeError, match="found no design within budget"):
            evolve(table, "energy", progress=False, **options)


def test_a_limit_that_only_rounding_exceeds_is_met():
    values = np.array([[1.0, 1.0, 0.0, 2.0], [2.0, 2.0, 0.0, 1.0]])
    names = tuple(f"layer{i}" for i in range(10))
    table = CostTable(names, ((Candidate(None, 3), Candidate(None, 5)),) * 10, (values,) * 10, np.zeros(4))
    proxy = {name: [0.3, 0.1] for name in names}
    limit = sum([0.1] * 10)
    assert limit < np.full(10, 0.1).sum()  # another order of adding
    result = evolve(table, budget=30, proxy=proxy, limit=limit, population=8, generations=2, progress=False)
    assert result.choice == (1,) * 10


def test_the_evolution_meets_two_limits_that_leave_little_room(resnet50):
    """Crossbars and copies of uniform 512x256 epitomes without wrapping: random designs meet neither."""
    workload = Workload.load("resnet50")
    proxy = {
        name: [0 if c.spec is None else copied_channels(c.spec) for c in own]
        for name, own in zip(resnet50.layers, resnet50.candidates, strict=True)
    }
    uniform = Design.uniform(workload, 512, 256, wrap=1)
    limit = sum(map(copied_channels, uniform.values()))
    budget = evaluate(workload, Hardware.preset("default"), uniform, bits=3).crossbars
    options = {"budget": budget, "proxy": proxy, "limit": limit}
    exact = solve_exact(resnet50, **options)
    found = evolve(resnet50, population=256, generations=60, progress=False, **options)
    assert found.crossbars <= budget
    assert sum(proxy[n][i] for n, i in zip(resnet50.layers, found.choice, strict=True)) <= limit
    assert exact.value <= found.value <= 1.02 * exact.value


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_evolution_comes_within_two_percent_of_the_optimum_on_resnet50(resnet50, objective):
    exact = solve_exact(resnet50, objective, budget=300)
    found = evolve(resnet50, objective, budget=300, population=256, generations=120, progress=False)
    assert exact.bound <= exact.value <= found.value <= 1.02 * exact.value
    assert all(a >= b for a, b in itertools.pairwise(found.history))
    assert found.history[-1] == pytest.approx(found.value)


def test_the_value_is_what_the_cost_model_says_of_the_design(resnet50):
    result = solve_exact(resnet50, "latency", budget=428)
    design, bits = resnet50.design(result.choice)
    report = evaluate(Workload.load("resnet50"), Hardware.preset("default"), design, bits, pipelined=False)
    assert report.crossbars == result.crossbars <= 428
    assert report.latency == pytest.approx(result.latency)
    assert report.energy == pytest.approx(result.energy)
    assert report.area == pytest.approx(result.area)


def test_a_larger_budget_is_never_worse(resnet50):
    front = pareto(resnet50, "latency", budgets=[1, 200, 300, 500])
    assert [r.budget for r in front] == [200, 300, 500]  # the smallest candidates need more than 1
    assert front[0].value >= front[1].value >= front[2].value
    crossbars = dict(zip(resnet50.layers, (own[:, 3] for own in resnet50.values), strict=True))
    most = {name: -values for name, values in crossbars.items()}  # at least 300 crossbars, and at most the budget
    tight = pareto(resnet50, "latency", budgets=[200, 300, 500], proxy=most, limit=-300)
    assert [r.budget for r in tight] == [300, 500]
    assert tight[0].crossbars == 300


def test_equal_seeds_give_equal_results_and_an_interrupted_search_goes_on(resnet50, tmp_path, monkeypatch):
    options = {"budget": 300, "population": 64, "generations": 70, "progress": False}
    whole = evolve(resnet50, seed=3, **options)
    assert evolve(resnet50, seed=3, **options) == whole
    file = tmp_path / "search.json"
    from epimlib.search import _Evolution

    step = _Evolution.step

    def interrupted(self):
        if len(self.history) == 60:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(_Evolution, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evolve(resnet50, seed=3, checkpoint=file, **options)
    assert len(json.loads(file.read_text())["state"]["history"]) == 50
    monkeypatch.undo()
    assert evolve(resnet50, seed=3, checkpoint=file, **options) == whole
    with pytest.raises(ValueError, match="belongs to another search: seed differs"):
        evolve(resnet50, seed=4, checkpoint=file, **options)
    file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        evolve(resnet50, seed=3, checkpoint=file, **options)


def test_progress_is_shown(resnet50, capsys):
    evolve(resnet50, budget=300, population=8, generations=3)
    assert re.search(r"3/3 .*best 0\.\d+, 29 designs", capsys.readouterr().err)


def test_copied_channels_are_rows_of_the_weight_that_repeat():
    layer = Workload.load("resnet50")["layer4.1.conv3"]
    shape = (layer.out_channels, layer.in_channels, layer.kernel_size)
    for wrap, cols in itertools.product(["full", 2, 1], [100, 256]):
        spec = EpitomeSpec.for_crossbars(*shape, 512, cols, wrap)
        index = spec.plan().index.reshape(layer.out_channels, -1)
        assert copied_channels(spec) == layer.out_channels - len(np.unique(index, axis=0))
    assert copied_channels(EpitomeSpec.dense(*shape)) == 0


def test_candidates_are_distinct_fit_their_layer_and_begin_with_dense():
    workload = Workload.load("resnet18")
    found = candidates(workload, rows=[256, 1024], cols=[256], bits=[3, 5])
    assert list(found) == [layer.name for layer in workload.weighted]
    for layer in workload.weighted:
        own = found[layer.name]
        assert own[:2] == ((None, 3), (None, 5))
        assert len(set(own)) == len(own)
        assert all(c.spec is None or c.spec.shape == layer.weight_shape for c in own)


def test_the_fit_error_is_what_a_fitted_layer_misses():
    spec = EpitomeSpec.for_crossbars(16, 24, 3, rows=96, cols=8)
    layer = EpitomeConv2d(24, 16, 3, epitome=spec).double()
    weight = torch.randn(16, 24, 3, 3, dtype=torch.float64)
    layer.fit(weight)
    missed = ((weight - layer.weight) ** 2).sum() / (weight**2).sum()
    assert fit_error(weight.numpy(), spec) == pytest.approx(missed.item())
    assert fit_error(weight.numpy(), EpitomeSpec.dense(16, 24, 3)) == 0
    with pytest.raises(ValueError, match=r"weight must have shape \(16, 24, 3, 3\), got \(24, 16, 3, 3\)"):
        fit_error(np.zeros((24, 16, 3, 3)), spec)


def test_a_result_round_trips_and_prints(resnet50):
    result = solve_exact(resnet50, "energy", budget=300)
    assert SearchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert "crossbars: 300 of 300" in str(result)
    with pytest.raises(ValueError, match="unknown key 'sede' in a search result; did you mean 'seed'"):
        SearchResult.from_dict({"sede": 1})


def test_bad_input_is_one_clear_sentence(resnet50):
    with pytest.raises(ValueError, match="objective must be one of 'latency', 'energy', 'edp', got 'speed'"):
        solve_exact(resnet50, "speed", budget=300)
    with pytest.raises(ValueError, match="budget must be at least 108, what the smallest candidates need, got 10"):
        evolve(resnet50, budget=10)
    with pytest.raises(ValueError, match="proxy and limit go together"):
        solve_exact(resnet50, budget=300, limit=1.0)
    with pytest.raises(ValueError, match="proxy of layer 'conv1' must be 2 finite numbers"):
        solve_exact(resnet50, budget=300, proxy={}, limit=1.0)
    with pytest.raises(ValueError, match="population must be at least 8, got 2"):
        evolve(resnet50, budget=300, population=2)
