"""Integers through crossbars: compiled, executed round by round, simulated."""

from epimlib.datapath.compile import compile
from epimlib.datapath.execute import run
from epimlib.datapath.program import Program
from epimlib.datapath.simulate import Simulation, compile_layer, quantize_max, simulate, weighted_layers
from epimlib.datapath.trace import trace
from epimlib.quant.grid import QuantizedLayer

__all__ = [
    "Program",
    "QuantizedLayer",
    "Simulation",
    "compile",
    "compile_layer",
    "quantize_max",
    "run",
    "simulate",
    "trace",
    "weighted_layers",
]
