"""What fake quantization adds to a training step: medians of the ratios of pairs timed in turn in one run.

A step is forward and backward, without the optimizer, of an epitome network or layer with quantized weights (3 bits,
one step per 256x256 crossbar) and inputs (9 bits, running range), over the same step of the same epitomes in float.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from layer import BATCH, main, ratio, step

from epimlib import Design, EpitomeSpec, Hardware, Workload
from epimlib.epitome.layers import EpitomeConv2d, epitomize
from epimlib.quant.grid import QuantConfig
from epimlib.quant.quantize import quantize

NETWORKS = ("resnet18", "resnet50")
CROSSBAR = Hardware.preset("default").crossbar
CONFIGS = {
    "max": QuantConfig(bits=3, granularity="crossbar", crossbar=CROSSBAR),
    "mse": QuantConfig(bits=3, granularity="crossbar", crossbar=CROSSBAR, range="mse"),
    "learned": QuantConfig(bits=3, granularity="crossbar", crossbar=CROSSBAR, range="mse", learned=True),
}


def networks(runs: int) -> pd.DataFrame:
    """One row per network and wrapping, one column per range rule."""
    import timm

    rows = {}
    for name in NETWORKS:
        workload = Workload.load(name)
        dense = timm.create_model(name).train()
        x = torch.randn(BATCH, *workload.input_size)
        for wrap in (1, "full"):
            model, _ = epitomize(dense, Design.uniform(workload, 1024, 256, wrap=wrap), init="random")
            steps = {rule: step(quantize(model, config), x) for rule, config in CONFIGS.items()}
            rows[f"{name}, wrap {wrap}"] = {rule: ratio(steps[rule], step(model, x), runs) for rule in steps}
    return pd.DataFrame(rows).T


def layers(runs: int) -> pd.DataFrame:
    """One row per network and shape that an unwrapped 1024x256 epitome makes smaller."""
    rows, seen = {}, set()
    every = [(network, layer) for network in NETWORKS for layer in Workload.load(network).weighted]
    for name, layer in every:
        shape = (name, layer.weight_shape, layer.stride, layer.in_size)
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
    main(__doc__, networks, layers)
