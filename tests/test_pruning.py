"""Smaller networks without epitomes: what is removed, how it is counted, and that it stays removed."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from epimlib import Design, Hardware, map_crossbars
from epimlib.datapath import simulate
from epimlib.epitome.layers import epitomize
from epimlib.epitome.trace import trace
from epimlib.quant.export import load_quantized, save_quantized
from epimlib.quant.grid import QuantConfig
from epimlib.quant.precision import hessian_traces
from epimlib.quant.quantize import calibrate, integer_weights, quantize
from epimlib.rivals.pruning import METHODS, dense_blocks, fit_width, share_out, shrink, squeezed_blocks, used_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


quick = settings(max_examples=60)
HARDWARE = Hardware.preset("default").replace({"crossbar.rows": 20, "crossbar.cols": 8})
SMALL = HARDWARE.crossbar  # two channels of a 3x3 layer, twenty of a 1x1 layer, eight columns


def hardware_of(rows, cols, packing="dense"):
    return HARDWARE.replace({"crossbar.rows": rows, "crossbar.cols": cols, "crossbar.packing": packing})


class Residual(nn.Module):
    """Every kind of layer that the methods meet: a stem, a residual sum, strides, groups, a bias, a classifier."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.grouped(self.first(x).relu()).relu()
        return self.head(self.norm(self.second(x)).relu().mean((2, 3)))


def network(seed=0):
    torch.manual_seed(seed)
    model = Residual()
    for module in model.modules():  # channels and rows that differ in importance, as training makes them
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= torch.rand(module.weight.shape[0], *[1] * (module.weight.ndim - 1)) + 0.1
            module.weight.data *= torch.rand(module.weight.shape[1:]) + 0.1
    return model


def total(blocks):
    return sum(blocks.values())


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FULL = total(dense_blocks(Residual(), SMALL))


# Counting ----------------------------------------------------------------------------------------------------


class Array:
    """A crossbar as it is wired: one input for each word line, one output for each bit line, cells where they cross."""

    def __init__(self, inputs, outputs, matrix):
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.cells = matrix[np.ix_(self.inputs, self.outputs)]

    def add(self, x, y):
        np.add.at(y, self.outputs, x[self.inputs] @ self.cells)


def wire(matrix, height, width, usable):
    """Lay the used rows of every column block, one after the other, on crossbars of ``usable`` word lines."""
    arrays = []
    for start in range(0, matrix.shape[1], width):
        columns = range(start, min(start + width, matrix.shape[1]))
        rows = [row for row in range(matrix.shape[0]) if any(matrix[row, column] for column in columns)]
        while rows:
            arrays.append(Array(rows[:usable], columns, matrix))
            rows = rows[usable:]
    assert all(len(array.inputs) <= height and len(array.outputs) <= width for array in arrays)
    return arrays


@st.composite
def matrices(draw):
    packing = draw(st.sampled_from(["dense", "channel"]))
    crossbar = hardware_of(draw(st.integers(2, 9)), draw(st.integers(1, 5)), packing).crossbar
    window = draw(st.integers(1, 9 if crossbar.packing == "dense" else crossbar.rows))
    rows, cols = window * draw(st.integers(1, 5)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    matrix = random.integers(1, 9, (rows, cols))
    matrix *= random.random((rows, cols)) < draw(st.sampled_from([0.05, 0.2, 1]))
    matrix *= random.random((rows, 1)) < draw(st.sampled_from([0.5, 1]))
    return matrix, window, crossbar


@quick
@given(matrices())
def test_squeezed_crossbars_can_be_wired_and_compute_the_product(case):
    """Crossbars that a loop fills and drives: none of them is wired in two ways, and together they multiply."""
    matrix, window, crossbar = case
    usable = crossbar.rows if crossbar.packing == "dense" else crossbar.rows // window * window
    by_rows = wire(matrix, crossbar.rows, crossbar.cols, usable)
    # The other way round: used columns of every row block, laid on crossbars side by side.
    by_columns = wire(matrix.T, crossbar.cols, usable, crossbar.cols)
    assert squeezed_blocks(matrix != 0, window, crossbar) == min(len(by_rows), len(by_columns))
    x = np.random.default_rng(0).integers(-9, 9, len(matrix))
    for arrays, flip in ((by_rows, False), (by_columns, True)):
        y = np.zeros(matrix.shape[1], int)
        for array in arrays:
            if flip:  # its word lines are the columns of the transposed crossbar
                np.add.at(y, array.inputs, array.cells @ x[array.outputs])
            else:
                array.add(x, y)
        np.testing.assert_array_equal(y, x @ matrix)


def test_squeezing_by_hand():
    crossbar = hardware_of(2, 2).crossbar
    used = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]], bool)
    # 6 x 4 cells are 3 x 2 crossbars. Column blocks use 2 and 3 rows: 1 + 2 crossbars. Row blocks use the columns
    # {0}, {0, 1, 3} and {2, 3}: 1 + 2 + 1.
    assert squeezed_blocks(np.ones_like(used), 1, crossbar) == 6
    assert squeezed_blocks(used, 1, crossbar) == 3
    # Row blocks that use one column each: 3, against 3 + 3 crossbars for stacked rows.
    used = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]], bool)
    assert squeezed_blocks(used, 1, crossbar) == 3
    assert squeezed_blocks(np.zeros_like(used), 1, crossbar) == 0


@pytest.mark.parametrize("packing", ["channel", "dense"])
def test_without_zeros_the_count_is_the_mappings(packing):
    hardware = HARDWARE.replace({"crossbar.packing": packing})
    model = network()
    mapping = map_crossbars(trace(model, (3, 8, 8)), hardware)
    assert used_blocks(model, hardware.crossbar) == dense_blocks(model, hardware.crossbar)
    assert used_blocks(model, hardware.crossbar) == {layer.name: layer.blocks for layer in mapping.layers}


def test_the_report_counts_crossbars_as_the_mapping_does():
    _, report = shrink(network(), "pim-prune", FULL, HARDWARE)
    workload = trace(network(), (3, 8, 8))
    assert report.crossbars() == map_crossbars(workload, HARDWARE).crossbars
    bits = dict(zip(report.blocks, itertools.cycle([3, 9]), strict=False))
    assert report.crossbars(bits) == map_crossbars(workload, HARDWARE, bits=bits).crossbars
    assert total(report.blocks) == FULL == total(report.blocks_before)
    first, *others = report.blocks
    with pytest.raises(ValueError, match=rf"bits lack layer '{others[0]}' \(and {len(others) - 1} more\)"):
        report.crossbars({first: 3})


# Sharing out the budget --------------------------------------------------------------------------------------


@quick
@given(st.data())
def test_the_budget_is_shared_out_for_the_largest_product(data):
    shares = st.dictionaries(st.integers(1, 6), st.floats(0.01, 1), min_size=1, max_size=4)
    options = {f"layer {n}": data.draw(shares) for n in range(data.draw(st.integers(1, 4)))}
    budget = sum(min(own) for own in options.values()) + data.draw(st.integers(0, 8))
    found = share_out(options, budget)
    assert list(found) == list(options)
    assert sum(found.values()) <= budget

    def product(choice):
        return math.prod(own[number] for own, number in zip(options.values(), choice, strict=True))

    best = max(product(c) for c in itertools.product(*options.values()) if sum(c) <= budget)
    assert product([found[name] for name in options]) == pytest.approx(best)


# Rows and columns of blocks ----------------------------------------------------------------------------------


def best_kept(energy, crossbars, width, depth):
    """Largest kept sum when whole rows of strips stay, by trying every set of rows for every strip."""
    best = [0.0] + [-math.inf] * crossbars
    for start in range(0, energy.shape[1], width):
        strip = energy[:, start : start + width].sum(1)
        values = [-math.inf] * (crossbars + 1)
        for rows in itertools.chain.from_iterable(
            itertools.combinations(range(len(strip)), size) for size in range(len(strip) + 1)
        ):
            needed = math.ceil(len(rows) / depth)
            for used in range(crossbars + 1 - needed):
                values[used + needed] = max(values[used + needed], best[used] + strip[list(rows)].sum())
        best = values
    return max(best)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3), st.integers(1, 3), st.data())
def test_no_other_rows_or_columns_of_a_layer_keep_more(inputs, outputs, rows, cols, data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    layer = nn.Linear(inputs, outputs).double()
    hardware = hardware_of(rows, cols)
    blocks = data.draw(st.integers(1, total(dense_blocks(layer, hardware.crossbar))))
    energy = layer.weight.detach().T.square().numpy()
    shrunk, report = shrink(layer, "pim-prune", blocks, hardware)
    assert total(report.blocks) <= blocks
    best = max(best_kept(energy, blocks, cols, rows), best_kept(energy.T, blocks, rows, cols))
    assert shrunk.weight.square().sum().item() == pytest.approx(best)


@pytest.mark.parametrize("packing", ["channel", "dense"])
@pytest.mark.parametrize("blocks", [FULL // 3, FULL // 2, FULL - 1])
def test_whole_rows_or_whole_columns_of_blocks_are_removed(blocks, packing):
    hardware = HARDWARE.replace({"crossbar.packing": packing})
    crossbar = hardware.crossbar
    model = network()
    shrunk, report = shrink(model, "pim-prune", blocks, hardware)
    assert total(report.blocks) <= blocks
    assert report.blocks == used_blocks(shrunk, crossbar)
    for name, module in shrunk.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        dense = model.get_submodule(name).weight
        kept = module.weight != 0
        assert torch.equal(module.weight, torch.where(kept, dense, 0))
        kept = kept.flatten(1).T
        usable = crossbar.rows if packing == "dense" or module.weight.ndim == 2 else 18
        rows = all((part.all(1) | ~part.any(1)).all() for part in kept.split(crossbar.cols, dim=1))
        columns = all((part.all(0) | ~part.any(0)).all() for part in kept.split(usable, dim=0))
        assert rows or columns
        assert kept.any()
        assert kept.all() or not isinstance(module, nn.Conv2d) or module.groups == 1


def test_small_rows_leave_by_hand():
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, 0.1, 2.0, 0.2], [3.0, 0.1, 2.0, 9.0]])
    # Two word lines, two columns. Rows have the squared norms 18, 0.02, 8, 81.04: rows 0 and 3 keep 99.04 of 107.06.
    # One column of each of the two row blocks keeps at most 9.01 + 85 in two crossbars, and either column block in one.
    shrunk, report = shrink(layer, "pim-prune", 1, hardware_of(2, 2))
    assert shrunk.weight.tolist() == [[3.0, 0.0, 0.0, pytest.approx(0.2)], [3.0, 0.0, 0.0, 9.0]]
    assert (report.blocks_before, report.blocks) == ({"": 2}, {"": 1})
    assert (report.weights_before, report.weights) == (8, 4)
    assert str(report) == "pim-prune: 2 blocks became 1 (budget 1), 8 weights became 4"


def test_no_layer_vanishes_and_a_layer_of_zeros_is_no_obstacle():
    model = network()
    model.first.weight.data.zero_()
    least = len(dense_blocks(model, SMALL)) - 1 + dense_blocks(model, SMALL)["grouped"]
    shrunk, report = shrink(model, "pim-prune", least, HARDWARE)
    assert {name: number for name, number in report.blocks.items() if name != "grouped"} == {
        "stem.0": 1,
        "first": 0,
        "second": 1,
        "head": 1,
    }
    assert shrunk(IMAGES).shape == (4, 5)


# Masks -------------------------------------------------------------------------------------------------------


def removed(model):
    return {
        name: module.weight.detach() == 0
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def train(model, optimizer, steps=3):
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()


def changes(before, after):
    return any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.fixture(params=["pim-prune", "unstructured"])
def masked(request):
    return shrink(network(), request.param, FULL // 2, HARDWARE)[0]


class TestMasks:
    def test_what_was_removed_stays_removed_in_training(self, masked):
        zeros = removed(masked)
        assert sum(int(z.sum()) for z in zeros.values()) > 1000
        for optimizer in (
            torch.optim.SGD(masked.parameters(), 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
            torch.optim.AdamW(masked.parameters(), 0.01, weight_decay=0.1),
        ):
            start = copy.deepcopy(masked)
            train(masked, optimizer)
            assert changes(start, masked)
            found = removed(masked)
            for name, zero in zeros.items():
                assert torch.equal(found[name], zero), name

    def test_masks_outlive_weights_that_others_write(self, masked):
        zeros = removed(masked)
        for parameter in masked.parameters():
            parameter.data.add_(1)
        assert all(torch.equal(zero, removed(masked)[name]) for name, zero in zeros.items())

    def test_the_state_dict_holds_the_masks(self, masked):
        other, _ = shrink(network(seed=1), "pim-prune", FULL, HARDWARE)
        other.load_state_dict(masked.state_dict())
        zeros = removed(masked)
        train(other, torch.optim.SGD(other.parameters(), 0.1))
        assert all(torch.equal(zero, removed(other)[name]) for name, zero in zeros.items())
        other.load_state_dict(masked.state_dict())
        torch.testing.assert_close(other.eval()(IMAGES), masked.eval()(IMAGES), rtol=0, atol=0)

    def test_an_average_of_weights_keeps_the_zeros(self, masked):
        from timm.utils import ModelEmaV3

        average = ModelEmaV3(masked, decay=0.5)
        zeros = removed(masked)
        train(masked, torch.optim.SGD(masked.parameters(), 0.1, weight_decay=0.1))
        average.update(masked)
        assert changes(masked, average.module)
        assert all(torch.equal(zero, removed(average.module)[name]) for name, zero in zeros.items())

    @pytest.mark.parametrize("learned", [False, True])
    def test_quantization_works_on_top(self, masked, learned):
        zeros = removed(masked)
        config = QuantConfig(3, "crossbar", "mse", learned=learned, crossbar=SMALL)
        model = quantize(masked, config)
        train(model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.1))
        calibrate(model, IMAGES)
        for name, layer in integer_weights(model).items():
            assert not layer.weight[zeros[name]].any(), name
            assert layer.weight.any()
            assert layer.weight.abs().max() <= 3
        assert total(used_blocks(model, SMALL)) <= total(used_blocks(masked, SMALL))

    def test_the_hardware_computes_what_the_pruned_quantized_model_computes(self, masked):
        model = quantize(masked.double(), QuantConfig(5, "crossbar", "mse", crossbar=SMALL))
        calibrate(model, IMAGES.double())
        wide = HARDWARE.replace({"adc.bits": 16})
        logits = simulate(model.eval(), wide, IMAGES.double(), quantized=integer_weights(model)).logits
        torch.testing.assert_close(logits, model(IMAGES.double()))

    def test_a_changed_weight_is_quantized_anew(self, masked):
        """A masked weight is a new tensor each time, often at the address of the last one."""
        model = quantize(masked, QuantConfig(3)).eval()
        calibrate(model, IMAGES)
        with torch.no_grad():
            for factor in (2, 0.5, 3):
                for name, module in model.named_modules():
                    if name == "second":
                        module.parametrizations.weight.original.mul_(factor)
                        module.parametrizations.weight[-1].scale.mul_(factor)
                expected = copy.deepcopy(model)(IMAGES)
                torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=0)
                model.second.parametrizations.weight.original.neg_()
                changed = model.second.weight.clone()
                model.second.parametrizations.weight.original.neg_()
                torch.testing.assert_close(model.second.weight, -changed, rtol=0, atol=0)

    def test_a_quantized_pruned_model_goes_through_a_file(self, masked, tmp_path):
        model = quantize(masked, QuantConfig(3)).eval()
        calibrate(model, IMAGES)
        save_quantized(model, tmp_path / "model.safetensors")
        loaded = load_quantized(tmp_path / "model.safetensors", masked)
        torch.testing.assert_close(loaded(IMAGES), model(IMAGES), rtol=0, atol=0)
        with pytest.raises(ValueError, match="is for another model"):
            load_quantized(tmp_path / "model.safetensors", network())

    def test_curvature_is_that_of_the_masked_weights(self, masked):
        plain = network()
        for name, module in plain.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data.copy_(masked.get_submodule(name).weight)
        batches = [(IMAGES, torch.tensor([0, 1, 2, 3]))]
        found, expected = (hessian_traces(model.eval(), batches, probes=2) for model in (masked, plain))
        assert found == pytest.approx(expected)


def test_a_weight_of_several_tensors_is_not_quantized():
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="layer '' is a ParametrizedLinear, which derives its weight"):
        quantize(layer, QuantConfig(3))


# Single weights ----------------------------------------------------------------------------------------------


def test_unstructured_pruning_removes_the_smallest_weights_and_frees_hardly_a_crossbar():
    model = network()
    shrunk, report = shrink(model, "unstructured", FULL // 2, HARDWARE)
    assert total(report.blocks) >= 0.95 * FULL
    names = [name for name in dense_blocks(model, SMALL) if name != "grouped"]
    before = torch.cat([model.get_submodule(name).weight.detach().flatten() for name in names]).abs()
    after = torch.cat([shrunk.get_submodule(name).weight.detach().flatten() for name in names]).abs()
    assert int((after > 0).sum()) == len(before) - round(len(before) * (1 - (FULL // 2) / FULL))
    assert before[after == 0].max() <= after[after > 0].min()
    assert report.weights_before - report.weights == int((after == 0).sum())


# Channels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [FULL // 4, FULL // 2, FULL])
def test_whole_channels_leave_every_layer_that_they_touch(blocks):
    model = network().eval()
    model.stem.train()
    shrunk, report = shrink(model, "channels", blocks, HARDWARE, (3, 8, 8))
    assert total(report.blocks) <= blocks
    assert report.blocks == dense_blocks(shrunk, SMALL)
    width = shrunk.stem[0].out_channels
    assert shrunk.first.in_channels == shrunk.second.in_channels == width  # the residual sum ties them together
    assert shrunk.first.out_channels == shrunk.grouped.out_channels == width
    assert shrunk.head.out_features == 5
    assert shrunk(IMAGES).shape == (4, 5)
    modes = [module.training for module in model.modules()]
    assert [module.training for module in shrunk.modules()] == modes
    assert report.weights == sum(m.weight.numel() for m in shrunk.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    mapping = map_crossbars(trace(shrunk, (3, 8, 8)), HARDWARE)
    assert mapping.blocks == total(report.blocks)
    if blocks < FULL:
        assert report.weights < report.weights_before
        calibrate(quantize(shrunk, QuantConfig(3, "crossbar", crossbar=SMALL)), IMAGES)


def test_the_channels_of_least_norm_leave():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    for number in range(16):
        model[0].weight.data[number] = model[2].weight.data[:, number] = 1 + (5 * number) % 16
    shrunk, _ = shrink(model, "channels", 3, hardware_of(4, 4), (3, 2, 2))
    # 4 column blocks and 4 row blocks of 4 channels each became 1 and 1: no number of channels needs 3.
    assert shrunk[0].out_channels == 4
    assert sorted(shrunk[0].weight[:, 0, 0, 0].tolist()) == [13, 14, 15, 16]


# Low rank ----------------------------------------------------------------------------------------------------


def test_factors_are_the_best_of_their_rank():
    model = network().double()
    shrunk, report = shrink(model, "low-rank", 2 * FULL // 3, HARDWARE)
    assert total(report.blocks) <= 2 * FULL // 3
    assert report.blocks == dense_blocks(shrunk, SMALL)
    assert shrunk(IMAGES.double()).shape == (4, 5)
    pairs = {name: m for name, m in shrunk.named_modules() if isinstance(m, nn.Sequential) and name not in ("", "stem")}
    assert pairs
    for name, (first, second) in pairs.items():
        dense = model.get_submodule(name).weight.detach()
        few = dense.transpose(0, 1) if first.weight[0, 0].numel() == 1 < dense[0, 0].numel() else dense
        one, other = (part.weight.detach().reshape(*part.weight.shape[:2], -1) for part in (first, second))
        product = torch.einsum("riw,orv->oiwv", one, other).reshape(dense.shape)
        # Eckart and Young: the least squared error is the sum of the smallest eigenvalues of W W'.
        values = torch.linalg.eigvalsh(few.flatten(1) @ few.flatten(1).T)
        torch.testing.assert_close((product - dense).square().sum(), values[: len(values) - len(one)].sum())
        assert sum(report.blocks[f"{name}.{part}"] for part in "01") < report.blocks_before[name]


@pytest.mark.parametrize("window_first", [True, False])
@pytest.mark.parametrize(
    ("dense", "images"),
    [
        (nn.Conv2d(12, 40, (3, 2), stride=2, padding=(1, 2), dilation=(1, 2)), torch.randn(2, 12, 9, 9)),
        (nn.Conv2d(12, 40, 3, padding="same", padding_mode="circular", bias=False), torch.randn(2, 12, 9, 9)),
        (nn.Linear(60, 40), torch.randn(2, 7, 60)),
    ],
)
def test_a_layer_of_low_rank_computes_the_same_from_its_factors(dense, images, window_first):
    torch.manual_seed(0)
    out, inp, *window = dense.weight.shape
    shape = (out, 4, inp) if window_first else (inp, 4, out)
    few, rest = torch.randn(shape[:2]).double(), torch.randn(*shape[1:], math.prod(window)).double()
    weight = torch.einsum("or,riw->oiw" if window_first else "ir,row->oiw", few, rest)
    dense.double().weight.data.copy_(weight.reshape(dense.weight.shape))
    blocks = total(dense_blocks(dense, SMALL)) - 1
    shrunk, report = shrink(dense.eval(), "low-rank", blocks, HARDWARE)
    assert total(report.blocks) <= blocks
    assert not shrunk.training
    assert [type(part) for part in shrunk] == [type(dense)] * 2
    torch.testing.assert_close(shrunk(images.double()), dense(images.double()))


# Width -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [5, 12, 40, 100])
def test_the_widest_network_that_fits(blocks):
    def build(channels):
        wide, narrow = channels
        return nn.Sequential(nn.Conv2d(3, narrow, 3), nn.Conv2d(narrow, wide, 3), nn.Conv2d(wide, 5, 1))

    channels = fit_width(build, (48, 20), blocks, HARDWARE, multiple=4)
    rule = [(w, max(4, round(20 * w / 48 / 4) * 4)) for w in range(4, 49, 4)]
    fitting = [candidate for candidate in rule if total(dense_blocks(build(candidate), SMALL)) <= blocks]
    assert channels == max(fitting)
    with pytest.raises(ValueError, match=r"blocks must be at least 5 for channels \(4, 4\), got 4"):
        fit_width(build, (48, 20), 4, HARDWARE, multiple=4)


# Mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_model_given_is_not_changed(method):
    model, same = network(), network()
    shrink(model, method, 2 * FULL // 3, HARDWARE, (3, 8, 8))
    assert model.state_dict().keys() == same.state_dict().keys()
    assert not changes(model, same)
    assert model(IMAGES).shape == (4, 5)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "unstructured"])
def test_budgets_out_of_reach(method):
    with pytest.raises(ValueError, match=rf"blocks must be at least \d+ for method '{method}' and this model, got 3"):
        shrink(network(), method, 3, HARDWARE, (3, 8, 8))
    with pytest.raises(ValueError, match=f"blocks must be at most {FULL}, what the model needs, got {FULL + 1}"):
        shrink(network(), method, FULL + 1, HARDWARE, (3, 8, 8))


def test_mistakes_are_named():
    model = network()
    with pytest.raises(ValueError, match="method must be one of 'pim-prune', .*, got 'pimprune'"):
        shrink(model, "pimprune", 9, HARDWARE)
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        shrink(model, "pim-prune", 0, HARDWARE)
    design = Design.uniform(trace(model, (3, 8, 8)), rows=36, cols=8)
    for other in (
        shrink(model, "pim-prune", FULL // 2, HARDWARE)[0],
        quantize(model, QuantConfig(3), filter_fn=lambda _, name: name == "first"),
        epitomize(model, {"first": design["first"]})[0],
    ):
        with pytest.raises(ValueError, match=r"layer '.+' is an epitome, masked or quantized; model must be dense"):
            shrink(other, "pim-prune", FULL // 2, HARDWARE)
