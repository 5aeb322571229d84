"""Epitome layers against ``nn.Conv2d``: medians of the ratios of pairs timed in turn in one run.

Every 3x3 and 1x1 shape of ResNet-50 that a 1024x256 (unwrapped) or 256x256 (fully wrapped) epitome makes smaller is
timed at batch 8 in float32, wrapped also with signs as round coefficients, and whole networks. *Peak memory* is the
peak of the tensors allocated during a step over that of the dense layer, from torch's own profiler. Where a plan
*folds*, inputs that every output adds are multiplied once.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from torch import nn

from epimlib import Design, EpitomeSpec, Workload
from epimlib.epitome.layers import EpitomeConv2d, epitomize

BATCH = 8


def ratio(a: Callable[[], object], b: Callable[[], object], runs: int) -> float:
    """Median over ``runs`` pairs of the time of ``a`` over the time of ``b``, after two pairs of warm-up."""
    ratios = []
    for _ in range(runs + 2):
        times = [time.perf_counter()]
        for call in (a, b):
            call()
            times.append(time.perf_counter())
        ratios.append((times[1] - times[0]) / (times[2] - times[1]))
    return statistics.median(ratios[2:])


def peak(call: Callable[[], object]) -> int:
    """Peak of the bytes that ``call`` holds beyond those it found."""
    with open(os.devnull, "w", encoding="utf-8") as null:  # the profiler announces itself on standard error
        saved = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            with torch.profiler.profile(profile_memory=True) as profile:
                call()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    held = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


def step(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One training step without the optimizer: forward, backward, gradients of input and parameters."""
    grad = torch.randn_like(module(x))

    def run() -> None:
        module(x).backward(grad)
        module.zero_grad()  # afterwards, so that what a step holds includes them
        x.grad = None

    return run


def inference(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One forward pass without gradients."""

    def run() -> None:
        with torch.no_grad():
            module(x)

    return run


def layers(runs: int) -> pd.DataFrame:
    rows, seen = [], set()
    for layer in Workload.load("resnet50").weighted:
        shape = (layer.weight_shape, layer.stride, layer.in_size)
        if layer.kind != "conv" or shape in seen:
            continue
        seen.add(shape)
        for wrap, kind in ((1, "none"), ("full", "none"), ("full", "sign")):
            spec = EpitomeSpec.for_crossbars(
                *layer.weight_shape[:2],
                layer.kernel_size,
                rows=1024 if wrap == 1 else 256,
                cols=256,
                wrap=wrap,
                coefficients=kind,
            )
            folds = spec.plan().period < spec.in_channels
            if spec.compression == 1 or (wrap == "full" and spec.wrap == 1):
                continue
            options = {"stride": layer.stride, "padding": layer.padding, "bias": False}
            dense = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **options)
            epitome = EpitomeConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **options, epitome=spec)
            x = torch.randn(BATCH, layer.in_channels, *layer.in_size, requires_grad=True)
            steps = step(epitome, x), step(dense, x)
            forward = ratio(inference(epitome, x), inference(dense, x), runs)
            rows.append(
                (
                    layer.name,
                    spec.wrap,
                    kind,
                    folds,
                    forward,
                    ratio(*steps, runs),
                    peak(steps[0]) / peak(steps[1]),
                )
            )
    names = ["layer", "wrap g", "coefficients", "folds", "forward", "training step", "peak memory"]
    return pd.DataFrame(rows, columns=names).set_index("layer")


def networks(runs: int) -> pd.DataFrame:
    import timm

    workload = Workload.load("resnet50")
    dense = timm.create_model("resnet50").eval()
    rows = []
    for size in ((1024, 256), (512, 256), (256, 256)):
        design = Design.uniform(workload, *size)
        saved = sum(
            layer.macs * (1 - plan.rounds / plan.applications)
            for layer in workload.weighted
            if layer.name in design and (plan := design[layer.name].plan())
        ) / sum(layer.macs for layer in workload.layers)
        model, _ = epitomize(dense, design)
        x = torch.randn(BATCH, *workload.input_size)
        calls = inference(model.eval(), x), inference(dense, x)
        value = ratio(*calls, runs)
        memory = peak(calls[0]) / peak(calls[1])
        rows.append((f"{size[0]}x{size[1]}, wrapped", saved, 1 - value, (1 - value) / saved, memory))
    names = ["ResNet-50", "MACs saved by wrapping", "time saved", "time saved / MACs saved", "peak memory"]
    return pd.DataFrame(rows, columns=names).set_index("ResNet-50")


def main(description: str, networks: Callable[[int], pd.DataFrame], layers: Callable[[int], pd.DataFrame]) -> None:
    """Read the command line and print both tables; each function gets the number of timed pairs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=15, help="timed pairs of layers; networks get a third")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=["layers", "networks"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, float32\n")
    pd.options.display.float_format = "{:.3f}".format
    if arguments.only != "layers":
        print(networks(max(3, arguments.runs // 3)).to_string(), "\n")
    if arguments.only != "networks":
        print(layers(arguments.runs).to_string())


if __name__ == "__main__":
    main(__doc__, networks, layers)
