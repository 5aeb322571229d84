"""What fake quantization adds to a training step: medians of the ratios of pairs timed in turn in one run.

A step is forward and backward, without the optimizer, of an epitome network or layer with quantized weights (3 bits,
one step per 256x256 crossbar) and inputs (9 bits, running range), over the same step of the same epitomes in float.
"""

import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from layer import BATCH, ratio, step

from epimlib import Design, EpitomeSpec, Hardware, Workload
from epimlib._torchvision import ensure_torchvision
from epimlib.layers import EpitomeConv2d, epitomize
from epimlib.quantize import QuantConfig, quantize

CROSSBAR = Hardware.preset("default").crossbar
CONFIGS = {
    "max": QuantConfig(bits=3, granularity="crossbar", crossbar=CROSSBAR),
    "mse": QuantConfig(bits=3, granularity="crossbar", crossbar=CROSSBAR, range="mse"),
    "learned": QuantConfig(bits=3, granularity="crossbar", crossbar=CROSSBAR, range="mse", learned=True),
}


def networks(names: list[str], runs: int) -> pd.DataFrame:
    """One row per network and wrapping, one column per range rule."""
    ensure_torchvision()
    import timm

    rows = {}
    for name in names:
        workload = Workload.load(name)
        dense = timm.create_model(name).train()
        x = torch.randn(BATCH, *workload.input_size)
        for wrap in (1, "full"):
            model, _ = epitomize(dense, Design.uniform(workload, 1024, 256, wrap=wrap), init="random")
            steps = {rule: step(quantize(model, config), x) for rule, config in CONFIGS.items()}
            rows[f"{name}, wrap {wrap}"] = {rule: ratio(steps[rule], step(model, x), runs) for rule in steps}
    return pd.DataFrame(rows).T


def layers(name: str, runs: int) -> pd.DataFrame:
    """One row per shape of a network that an unwrapped 1024x256 epitome makes smaller."""
    rows, seen = {}, set()
    for layer in Workload.load(name).weighted:
        shape = (layer.weight_shape, layer.stride, layer.in_size)
        spec = EpitomeSpec.for_crossbars(*layer.weight_shape[:2], layer.kernel_size, rows=1024, cols=256, wrap=1)
        if layer.kind != "conv" or shape in seen or spec.compression == 1:
            continue
        seen.add(shape)
        options = {"stride": layer.stride, "padding": layer.padding, "bias": False}
        epitome = EpitomeConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **options, epitome=spec)
        x = torch.randn(BATCH, layer.in_channels, *layer.in_size).relu_().requires_grad_()
        rows[f"{name} {layer.name}"] = {
            rule: ratio(step(quantize(epitome, config), x), step(epitome, x), runs) for rule, config in CONFIGS.items()
        }
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="timed pairs of layers; networks get a third")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=["layers", "networks"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, float32\n")
    pd.options.display.float_format = "{:.3f}".format
    if arguments.only != "layers":
        print(networks(["resnet18", "resnet50"], max(3, arguments.runs // 3)).to_string(), "\n")
    if arguments.only != "networks":
        print(pd.concat(layers(name, arguments.runs) for name in ("resnet18", "resnet50")).to_string())
