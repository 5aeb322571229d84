"""Searches against brute force over every design of small problems, and against each other on ResNet-50."""

import itertools
import json
import math
import re
import types

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epimlib import Design, EpitomeSpec, Hardware, Workload, evaluate
from epimlib.epitome.layers import EpitomeConv2d
from epimlib.search import (
    CannotBeMet,
    SearchResult,
    candidates,
    copied_channels,
    evolve,
    fit_error,
    pareto,
    solve_exact,
)
from epimlib.search.evolve import _Evolution
from epimlib.search.knapsack import Choice, choose
from epimlib.search.problem import Problem
from epimlib.search.table import Candidate, CostTable, tabulate

OBJECTIVES = ["latency", "energy", "edp"]


def table_of(values, rest=(0, 0, 0, 0)):
    """A table with these latencies, energies, areas and crossbars, for every candidate of every layer."""
    values = tuple(np.array(own, dtype=float) for own in values)
    options = tuple(tuple(Candidate(None, bits + 2) for bits in range(len(own))) for own in values)
    return CostTable(tuple(f"layer{i}" for i in range(len(values))), options, values, np.array(rest, dtype=float))


@st.composite
def tables(draw):
    """Tables of made-up costs with two to four layers."""
    number = st.integers(1, 30)
    values = [
        [[*(draw(number) for _ in range(3)), draw(number)] for _ in range(draw(st.integers(1, 5)))]
        for _ in range(draw(st.integers(2, 4)))
    ]
    return table_of(values, [draw(number), draw(number), 0, 0])


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


def test_where_sums_nearly_agree_the_optimum_is_not_missed():
    """HiGHS without presolve calls 8 optimal here; listing every choice finds 5."""
    costs = [
        {"latency": [1, 3, 4], "proxy": [1.999999, 0, 0]},
        {"latency": [1, 1, 2], "proxy": [1, 0, 0]},
        {"latency": [1, 1, 1, 2], "proxy": [2, 2, 2, 0]},
        {"latency": [1], "proxy": [0]},
    ]
    chosen = choose(costs, "latency", {"proxy": 2})
    every = itertools.product(*(zip(own["latency"], own["proxy"], strict=True) for own in costs))
    sums = [tuple(map(sum, zip(*design, strict=True))) for design in every]
    best = min(latency for latency, proxy in sums if proxy <= 2)
    assert sum(own["latency"][taken] for own, taken in zip(costs, chosen.taken, strict=True)) == best


@pytest.fixture(scope="module")
def resnet50():
    workload = Workload.load("resnet50")
    return tabulate(workload, Hardware.preset("default"), candidates(workload))


def test_one_candidate_of_each_layer_within_a_limit():
    """The latencies of all four choices are 3, 4, 6 and 7, with 7, 5, 4 and 2 crossbars."""
    costs = [{"latency": [1, 4], "crossbars": [4, 1]}, {"latency": [2, 3], "crossbars": [3, 1]}]
    found = [choose(costs, "latency", {"crossbars": budget}) for budget in range(1, 8)]
    assert [choice and choice.taken for choice in found] == [None, (1, 1), (1, 1), (1, 0), (0, 1), (0, 1), (0, 0)]
    assert [choice.bound for choice in found[1:]] == pytest.approx([7, 7, 6, 4, 4, 3])
    assert choose([], "latency", {"crossbars": 1}).taken == ()


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


def test_a_candidate_of_another_magnitude_does_not_hide_the_optimum():
    """The solver's tolerances are absolute: beside ten millions, proxies of one and two looked the same."""
    table = table_of([[[1, 1, 0, 1], [2, 2, 0, 1], [0.5, 0.5, 0, 1]]] * 3)
    proxy = {name: [2, 1, 1e7] for name in table.layers}
    result = solve_exact(table, budget=10, proxy=proxy, limit=3)
    assert result.choice == (1, 1, 1)
    assert result.value == pytest.approx(result.bound, rel=1e-9) == 6


@pytest.mark.parametrize("excess", [1e-5, 1e-7, 1e-9])
def test_a_limit_is_not_exceeded_by_a_millionth(excess):
    table = table_of([[[1, 1, 0, 1], [2, 2, 0, 1]]] * 3)
    proxy = {name: [1 + excess, 1] for name in table.layers}
    assert solve_exact(table, budget=10, proxy=proxy, limit=3).choice == (1, 1, 1)
    # The differences fit one by one, and only together exceed the limit.
    table = table_of([[[2, 2, 0, 1], [1, 1, 0, 1], [3, 3, 0, 1]], [[1, 1, 0, 1], [2, 2, 0, 1], [3, 3, 0, 1]]])
    proxy = {"layer0": [2 + excess, 3 + excess, 1 + excess], "layer1": [3, 2, 1 + excess]}
    result = solve_exact(table, budget=10, proxy=proxy, limit=5)
    assert result.value == pytest.approx(result.bound, rel=1e-9) == 4  # (1, 1) has 3, but exceeds the limit


def test_a_design_that_nearly_meets_the_limit_does_not_hide_one_that_does():
    table = table_of([[[2, 2, 0, 1], [1, 1, 0, 1]]] * 2 + [[[1, 1, 0, 1], [2, 2, 0, 1]]])
    proxy = {"layer0": [1.0000001, 2], "layer1": [1, 2.0000001], "layer2": [2.0000001, 1.0000001]}
    result = solve_exact(table, budget=10, proxy=proxy, limit=5)
    assert result.value == pytest.approx(result.bound, rel=1e-9) == 5


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=20)
@given(table=tables(), slack=st.integers(0, 40), size=st.sampled_from([1e4, 1e8, 1e16]))
def test_the_optimum_is_found_beside_a_candidate_of_enormous_cost(objective, table, slack, size):
    budget = int(sum(own[:, 3].min() for own in table.values)) + slack
    first, *others = table.values
    table = table_of([[*first, [size, size, 0, 0]], *others], table.rest)  # it saves crossbars for the others
    expected = every_design(table, objective, budget)
    result = solve_exact(table, objective, budget=budget)
    assert result.value == pytest.approx(expected, rel=2e-6 if objective == "edp" else 1e-9)
    assert result.bound <= expected * (1 + 1e-9)


@settings(max_examples=30)
@given(table=tables(), slack=st.integers(0, 9), size=st.sampled_from([1e-6, 1e-7, 1e-8, 1e-9]), data=st.data())
def test_a_limit_is_kept_where_sums_nearly_agree(table, slack, size, data):
    near = st.integers(0, 5).flatmap(lambda whole: st.integers(-2, 2).map(lambda parts: whole + parts * size))
    proxy = {n: [data.draw(near) for _ in own] for n, own in zip(table.layers, table.values, strict=True)}
    limit = float(round(sum(map(min, proxy.values()))) + slack)
    expected = every_design(table, "latency", 1000, proxy, limit + 1e-11)
    if expected is None:
        with pytest.raises(CannotBeMet):
            solve_exact(table, budget=1000, proxy=proxy, limit=limit)
    else:
        result = solve_exact(table, budget=1000, proxy=proxy, limit=limit)
        assert result.value == pytest.approx(expected, rel=1e-9)
        assert result.bound <= expected * (1 + 1e-9)
        assert sum(proxy[n][i] for n, i in zip(table.layers, result.choice, strict=True)) <= limit + 1e-10


@pytest.fixture
def slow_solver(monkeypatch):
    """Every solve takes ten seconds of a clock of its own: the clock, and how much time each solve was given."""
    clock, given_time, solve = [0.0], [], scipy.optimize.milp

    def milp(*args, options, **known):
        given_time.append(options["time_limit"])
        clock[0] += min(10, given_time[-1])
        if given_time[-1] < 10:
            return scipy.optimize.OptimizeResult(status=1, x=None, message="Time limit reached.")
        return solve(*args, options={**options, "time_limit": 600}, **known)

    monkeypatch.setattr("scipy.optimize.milp", milp)
    for module in ("exact", "knapsack"):
        monkeypatch.setattr(f"epimlib.search.{module}.time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    return clock, given_time


@pytest.mark.parametrize("time_limit", [15, 25, 35, 45, 55])
def test_all_solves_of_a_product_share_the_time(slow_solver, time_limit):
    clock, given_time = slow_solver
    values = np.random.default_rng(0).integers(1, 30, (5, 6, 4))
    table = table_of(values)
    budget = int(values[:, :, 3].min(axis=1).sum()) + 20
    result = solve_exact(table, "edp", budget=budget, time_limit=time_limit)
    assert clock[0] == time_limit
    assert [given for given in given_time if given] == [time_limit - spent for spent in range(0, time_limit, 10)]
    assert result.message in (
        "Stopped before the tolerance: the time is over",
        "Stopped before the tolerance: HiGHS found no design: Time limit reached.",
    )
    assert 0 < result.bound < every_design(table, "edp", budget) * (1 - 1e-6)
    assert result.value >= every_design(table, "edp", budget)
    assert result.crossbars <= budget


def test_a_search_that_ends_in_time_says_so_and_one_without_a_design_raises(slow_solver):
    table = table_of(np.random.default_rng(0).integers(1, 30, (5, 6, 4)))
    assert solve_exact(table, "edp", budget=60, time_limit=10_000).message == "Solved to the tolerance."
    with pytest.raises(RuntimeError, match="HiGHS found no design: Time limit reached"):
        solve_exact(table, "edp", budget=60, time_limit=5)


def test_a_first_solution_is_not_lost_when_the_time_is_over(slow_solver):
    """Beside a cost of ten billions the first solve tells small costs not apart, and the second has no time."""
    table = table_of([[[1e10, 1, 0, 0], [2, 2, 0, 2], [1, 1, 0, 3]], *[[[1, 1, 0, 3], [3, 2, 0, 1], [4, 1, 0, 1]]] * 3])
    optimum = every_design(table, "latency", 9)
    result = solve_exact(table, budget=9, time_limit=15)
    assert result.message == "Time limit reached."
    assert 0 < result.bound < optimum <= result.value < 15
    assert solve_exact(table, budget=9, time_limit=30).value == optimum


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


@pytest.fixture
def few_repairs(monkeypatch):
    """A repair that goes on for ever fails."""
    shrink, calls = _Evolution._shrink, itertools.count()

    def counted(self, places, column):
        assert next(calls) < 200, "the repair goes on for ever"
        return shrink(self, places, column)

    monkeypatch.setattr(_Evolution, "_shrink", counted)


def test_a_limit_is_met_where_terms_of_the_proxy_cancel(few_repairs):
    """Then the last digits are those of the terms: 0.1 + 0.2 - 0.3 is not zero."""
    table = table_of([[[2, 2, 0, 1], [1, 1, 0, 1]]] * 3)
    proxy = {"layer0": [0.1, 1.1], "layer1": [0.2, 1.2], "layer2": [-0.3, 0.7]}
    small = {"population": 8, "generations": 2, "progress": False}
    assert solve_exact(table, budget=100, proxy=proxy, limit=0).choice == (0, 0, 0)
    assert evolve(table, budget=100, proxy=proxy, limit=0, **small).choice == (0, 0, 0)
    terms = [0.2, -0.5, -0.4, -2.4, 1.8, 1.1, -0.3, 0.8, 0.3, -0.6, 1.0, -1.0]
    assert 0 < sum(terms) < np.array(terms).sum() < 1e-15  # another order of adding
    table = table_of([[[2, 2, 0, 1], [1, 1, 0, 1]]] * 12)
    proxy = {name: [term, term + 1] for name, term in zip(table.layers, terms, strict=True)}
    assert evolve(table, budget=100, proxy=proxy, limit=sum(terms), **small).choice == (0,) * 12


def test_a_repair_ends_where_no_candidate_is_smaller(few_repairs):
    table = table_of([[[2, 2, 0, 1], [1, 1, 0, 3]]] * 4)
    search = _Evolution(Problem(table, "latency", 12, None, None), 8, 0)
    search.problem.limits["crossbars"] = 3  # below the four that the smallest candidates need
    assert (search.costs["crossbars"][search._repair(search.places)] == 1).all()


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


def test_a_checkpoint_goes_on_with_what_it_has_or_not_at_all(tmp_path):
    rows = [1, 1, 0, 2], [2, 2, 0, 1]
    table = table_of([rows, rows[:1]])
    options = {"budget": 4, "population": 8, "progress": False, "checkpoint": tmp_path / "search.json"}
    evolve(table, generations=20, **options)
    assert len(evolve(table, generations=30, **options).history) == 30
    with pytest.raises(ValueError, match="generations must be at least 30, those of the checkpoint, got 29"):
        evolve(table, generations=29, **options)
    others = {
        "costs of the layers without a weight": table_of([rows, rows[:1]], [1, 1, 0, 0]),
        "names of layers": CostTable(("conv1", "fc"), table.candidates, table.values, table.rest),
        "the same rows in other layers": table_of([rows[:1], [rows[1], rows[0]]]),
    }
    for other in others.values():
        with pytest.raises(ValueError, match="the checkpoint belongs to another search: table differs"):
            evolve(other, generations=30, **options)


def test_generations_without_a_design_are_infinite_here_and_null_in_json(tmp_path):
    """Two limits that only an even partition of ten numbers meets, which takes a while to find."""
    numbers = [31, 41, 59, 26, 53, 58, 97, 93, 23, 84]
    table = table_of([[[1, 1, 0, 1], [1, 1, 0, 1 + number]] for number in numbers])
    proxy = {name: [number, 0] for name, number in zip(table.layers, numbers, strict=True)}
    options = {"budget": 10 + 282, "proxy": proxy, "limit": 283, "population": 8, "progress": False}
    whole = evolve(table, generations=50, **options)
    assert whole.history[0] == math.inf > whole.history[-1]
    text = json.dumps(whole.to_dict(), allow_nan=False)
    assert json.loads(text)["history"][0] is None
    assert SearchResult.from_dict(json.loads(text)) == whole
    file = tmp_path / "search.json"
    with pytest.raises(RuntimeError, match="found no design within budget 292 and limit 283; allow more"):
        evolve(table, generations=5, checkpoint=file, **options)
    assert json.loads(file.read_text())["state"]["history"] == [None] * 5
    assert evolve(table, generations=50, checkpoint=file, **options) == whole


def test_a_checkpoint_holds_what_numpy_counts_and_a_limit_without_end(tmp_path):
    table = table_of([[[1, 1, 0, 2], [2, 2, 0, 1]]] * 2)
    options = {"proxy": {name: [1, 2] for name in table.layers}, "generations": 2, "progress": False}
    counts = {"budget": np.int64(3), "population": np.int64(8), "seed": np.int64(1)}
    for limit in (np.int64(4), math.inf):
        file = tmp_path / f"{limit}.json"
        found = evolve(table, limit=limit, checkpoint=file, **counts, **options)
        assert evolve(table, limit=float(limit), checkpoint=file, budget=3, population=8, seed=1, **options) == found
        assert SearchResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found


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
    missed = (weight - layer.weight).norm() / weight.norm()
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
    proxy = {name: np.zeros(len(own)) for name, own in zip(resnet50.layers, resnet50.values, strict=True)}
    with pytest.raises(ValueError, match="limit of the proxy must be at least 0, what the smallest .* got nan"):
        solve_exact(resnet50, budget=300, proxy=proxy, limit=math.nan)
    with pytest.raises(ValueError, match="population must be at least 8, got 2"):
        evolve(resnet50, budget=300, population=2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        *(
            ({name: []}, f"{name} must have at least one value, got none")
            for name in ("rows", "cols", "wraps", "families", "bits")
        ),
        ({"rows": 512}, "rows must be a list of values, got 512"),
        ({"wraps": "full"}, "wraps must be a list of values, got 'full'"),
        ({"rows": {512: 1}}, "rows must be a list of values, got {512: 1}"),
        ({"rows": [0]}, "rows must be at least 1, got 0"),
        ({"cols": ["256"]}, "cols must be a whole number, got '256'"),
        ({"cols": [256.0]}, "cols must be a whole number, got 256.0"),
        ({"wraps": ["ful"]}, "wraps must be a whole number, got 'ful'"),
        ({"wraps": [-1]}, "wraps must be at least 1, got -1"),
        ({"families": ["windows"]}, "families must be one of 'window', 'channel', got 'windows'"),
        ({"bits": [True]}, "bits must be a whole number, got True"),
        ({"bits": [None]}, "bits must be a whole number, got None"),
    ],
)
def test_candidates_that_cannot_be_meant_are_refused(given, sentence):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(sentence)}$"):
        candidates(Workload.load("resnet18"), **given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        *(
            ({"tolerance": value}, f"tolerance must be a number from 1e-09 to 1, got {value!r}")
            for value in (-1, 0, 1e-12, 2, math.nan, "1e-6", True, None)
        ),
        *(
            ({"time_limit": value}, f"time_limit must be a number from 0.001 to inf, got {value!r}")
            for value in (0, -1, math.nan, "60", True, None)
        ),
        ({"budget": 9.5}, "budget must be a whole number, got 9.5"),
        ({"budget": True}, "budget must be a whole number, got True"),
        ({"proxy": [1, 2], "limit": 3}, "proxy must be a mapping from layer name to numbers, got [1, 2]"),
        ({"proxy": {}, "limit": "3"}, "limit must be a number, got '3'"),
        ({"proxy": {}, "limit": True}, "limit must be a number, got True"),
        ({"proxy": {}, "limit": 1j}, "limit must be a number, got 1j"),
    ],
)
def test_limits_of_an_exact_search_that_cannot_be_meant_are_refused(given, sentence):
    table = table_of([[[1, 1, 0, 1]]])
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(sentence)}$"):
        solve_exact(table, "edp", **{"budget": 9, **given})


def test_a_front_needs_budgets():
    table = table_of([[[1, 1, 0, 1]]])
    for budgets, sentence in [
        (5, "budgets must be a list of values, got 5"),
        ([], "budgets must have at least one value, got none"),
        (["9"], "budgets must be a whole number, got '9'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(sentence)}$"):
            pareto(table, budgets=budgets)


def test_a_tolerance_that_is_never_reached_ends_with_the_time(monkeypatch):
    """Bounds that stay below whatever is found, from a solver that takes no time."""
    clock = itertools.count()
    monkeypatch.setattr("epimlib.search.exact.time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("epimlib.search.exact.choose", lambda *_: Choice((0, 0), 0.0, ""))
    result = solve_exact(table_of([[[1, 1, 0, 1]]] * 2), "edp", budget=9, time_limit=20)
    assert result.message == "Stopped before the tolerance: the time is over"
    assert next(clock) < 30


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"search": [1]}, "search of the checkpoint must be a mapping, got list"),
        ({"search": {}}, "search of the checkpoint lacks 'objective', 'budget'"),
        ({"state": 3}, "the checkpoint must be a mapping, got int"),
        ({"state": {"places": 1}}, "the checkpoint lacks 'history'"),
        *(
            ({"places": places}, "the checkpoint is damaged: ")
            for places in (
                7,
                [],
                [[0]],
                [[0, 99]] * 8,
                [[0, -1]] * 8,
                [[0.0, 2.0]] * 8,
                [["a", "b"]] * 8,
                [[0], [0, 1]],
            )
        ),
        *(({"history": value}, "the checkpoint is damaged: ") for value in (5, ["a"], [[1]], [{}])),
        *(({"evaluations": value}, "the checkpoint is damaged: ") for value in (None, "9", -1, 1.5)),
        *(
            ({"random": value}, "the checkpoint is damaged: ")
            for value in (None, 3, {}, {"bit_generator": "MT19937"}, {"bit_generator": "PCG64", "state": {"state": -1}})
        ),
    ],
)
def test_a_checkpoint_with_foreign_content_is_one_sentence(tmp_path, change, sentence):
    file = tmp_path / "search.json"
    options = {"budget": 9, "population": 8, "generations": 2, "progress": False, "checkpoint": file}
    table = table_of([[[1, 1, 0, 2], [2, 2, 0, 1]]] * 2)
    evolve(table, **options)
    whole = json.loads(file.read_text())
    own = change if change.keys() & whole.keys() else {"state": {**whole["state"], **change}}
    file.write_text(json.dumps({**whole, **own}))
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}[^\n]*$"):
        evolve(table, **options)


@pytest.mark.parametrize(
    ("weight", "got"),
    [
        (np.ones((4, 2, 3, 3), complex), "complex128"),
        (np.ones((4, 2, 3, 3), bool), "bool"),
        (np.full((4, 2, 3, 3), "1"), "<U1"),
        (np.full((4, 2, 3, 3), math.nan), "float64 [nan nan nan]"),
        (np.full((4, 2, 3, 3), math.inf), "float64 [inf inf inf]"),
        (np.zeros((4, 2, 3, 3)), "float64 [0. 0. 0.]"),
    ],
)
def test_the_fit_error_of_what_is_no_weight_is_refused(weight, got):
    sentence = f"weight must hold finite real numbers, not all zero, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        fit_error(weight, EpitomeSpec.dense(4, 2, 3))
