"""The datapath against torch's float convolution: times of calls in turn in one run, and their ratios.

*Layer*: 64 -> 64 channels, 3x3, on 1x64x32x32, 8-bit weights and activations, crossbars of 128 rows with 1-bit cells,
8-bit ADC. Public functional simulators take 57 to 1,900 ms for it (one thread), and 89 s with read noise.
*Network*: ResNet-18 with uniform epitomes at 224x224, every layer on the default hardware with an ADC that cannot clip.
Times are the medians, and in brackets the minima: a machine that others use as well makes medians long.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
import torch.nn.functional as F

from epimlib import Design, Hardware, Workload
from epimlib.datapath import compile, quantize_max, run, simulate
from epimlib.datapath.analog import NonIdealities
from epimlib.epitome.layers import epitomize


def table(calls: dict[str, Callable[[], object]], runs: int, unit: float) -> pd.DataFrame:
    """Time the calls in turn, after one round of warm-up; the first is what the others are compared with."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                times[name].append((time.perf_counter() - start) / unit)
    reference = next(iter(times.values()))
    rows = [
        (
            name,
            statistics.median(taken),
            min(taken),
            statistics.median(a / b for a, b in zip(taken, reference, strict=True)),
        )
        for name, taken in times.items()
    ]
    scale = {1e-3: "ms", 1.0: "s"}[unit]
    names = ["", f"median [{scale}]", f"minimum [{scale}]", "ratio to the first"]
    return pd.DataFrame(rows, columns=names).set_index("")


def layer(runs: int) -> pd.DataFrame:
    weight, x = torch.randint(-127, 128, (64, 64, 3, 3)), torch.randint(0, 256, (1, 64, 32, 32)).float()
    hardware = Hardware.preset("default").replace(
        {"crossbar.rows": 128, "crossbar.cols": 128, "crossbar.cell_bits": 1, "dac.per_crossbar": 128, "adc.bits": 8}
    )
    ideal = compile(None, weight, hardware, 8, 8, padding=1)
    noisy = compile(None, weight, hardware, 8, 8, padding=1, errors=NonIdealities(read_noise=0.05))
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert torch.equal(run(ideal, x, fast=False).output, exact)
    assert torch.equal(run(ideal, x).output, exact)
    return table(
        {
            "float convolution": lambda: F.conv2d(x, weight.float(), padding=1),
            "fast path": lambda: run(ideal, x),
            "every read": lambda: run(ideal, x, fast=False),
            "every read, with noise": lambda: run(noisy, x),
        },
        runs,
        1e-3,
    )


def network(runs: int) -> pd.DataFrame:
    import timm

    workload = Workload.load("resnet18")
    model, _ = epitomize(timm.create_model("resnet18").eval(), Design.uniform(workload, rows=1024, cols=256))
    images = torch.randn(1, *workload.input_size)
    hardware = Hardware.preset("default").replace({"adc.bits": 12})
    quantized = quantize_max(model, images)
    logits = []

    def simulated(fast: bool) -> Callable[[], object]:
        return lambda: logits.append(simulate(model, hardware, images, quantized=quantized, fast=fast).logits)

    with torch.no_grad():
        calls = {"float": lambda: model(images), "fast path": simulated(True), "every read": simulated(False)}
        times = table(calls, runs, 1.0)
    assert all(torch.equal(logits[0], other) for other in logits)
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="timed calls of each")
    parser.add_argument("--only", choices=["layer", "network"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pd.options.display.float_format = "{:.2f}".format
    threads = torch.get_num_threads()
    if arguments.only != "network":
        torch.set_num_threads(1)
        print(f"torch {torch.__version__}, one thread\n{layer(arguments.runs).to_string()}\n")
    if arguments.only != "layer":
        torch.set_num_threads(threads)
        print(f"one image of ResNet-18, {threads} threads\n{network(max(1, arguments.runs // 5)).to_string()}")
