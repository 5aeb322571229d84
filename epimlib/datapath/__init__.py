"""Integers through crossbars: compiled, executed round by round, simulated."""

from epimlib.datapath.compile import compile
from epimlib.datapath.execute import run
from epimlib.datapath.simulate import compile_layer, quantize_max, simulate, weighted_layers
from epimlib.datapath.trace import trace_rounds

__all__ = ["compile", "compile_layer", "quantize_max", "run", "simulate", "trace_rounds", "weighted_layers"]
