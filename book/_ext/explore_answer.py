"""What the page *Explore* asks the library, and what it shows of the answer.

The table of the page is made of these answers, and the page runs this very file when it computes in the browser; so it
imports the library and nothing else.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Layer, Workload
from epimlib.pim.evaluate import evaluate
from epimlib.pim.hardware import Hardware
from epimlib.pim.report import CostReport

load = cache(Workload.load)


def changed(hardware: Hardware, question: Mapping[str, Any]) -> Hardware:
    """Return the accelerator of a question: a preset with other crossbars."""
    side = question["crossbar"]
    return hardware.replace({"crossbar.rows": side, "crossbar.cols": side, "crossbar.cell_bits": question["cell_bits"]})


def design_of(workload: Workload, question: Mapping[str, Any]) -> Design:
    """Return the epitomes of a question."""
    if question["design"] == "dense":
        return Design()
    return Design.uniform(workload, question["rows"], question["cols"], question["wrap"])


def answer(question: Mapping[str, Any], presets: Mapping[str, Hardware]) -> dict[str, Any]:
    """Return what the page shows for a question, all digits included.

    Args:
        question: ``network``, ``preset``, ``crossbar`` (lines of a square one), ``cell_bits``, ``bits``,
            ``activation_bits``, ``design`` ("epitome" or "dense"), ``rows``, ``cols`` and ``wrap``.
        presets: accelerators by name.

    Raises:
        TypeError, ValueError, FileNotFoundError: as the library does.
    """
    workload = load(question["network"])
    design = design_of(workload, question)
    hardware = changed(presets[question["preset"]], question)
    report = evaluate(workload, hardware, design, question["bits"], question["activation_bits"])
    costs = {cost.name: cost for cost in report.layers}
    layers = []
    for layer in workload.weighted:
        cost, spec = costs[layer.name], design.get(layer.name)
        shown = cost.crossbars, 100 * cost.utilization, cost.latency * 1e3, math.fsum(cost.energy.values()) * 1e3
        layers.append([layer.name, matrix(layer), epitome(spec), *shown])
    return totals(report) | {"layers": layers}


def totals(report: CostReport) -> dict[str, float]:
    """Return the sums of a report, by the names of the table: ms, mJ, mm^2 and %."""
    return {
        "crossbars": report.crossbars,
        "factor": report.factor,
        "latency": report.latency * 1e3,
        "sequential": math.fsum(layer.latency for layer in report.layers) * 1e3,
        "energy": report.energy * 1e3,
        "area": report.area * 1e6,
        "utilization": 100 * report.utilization,
    }


def matrix(layer: Layer) -> str:
    """Return the size of a layer's matrix, such as "576 × 64"."""
    out, *inp = layer.weight_shape
    groups = f"{layer.groups} of " if layer.groups > 1 else ""
    return f"{groups}{math.prod(inp)} × {out // layer.groups}"


def epitome(spec: EpitomeSpec | None) -> str:
    """Return the size of an epitome's matrix, or "dense"."""
    return f"{spec.rows} × {spec.cols}" if spec else "dense"


def asker(presets: str) -> Callable[[str], str]:
    """Return a function from a question in JSON to its answer in JSON; a refusal is ``{"refused": sentence}``."""
    known = {name: Hardware.from_dict(data) for name, data in json.loads(presets).items()}

    def ask(question: str) -> str:
        try:
            return json.dumps(answer(json.loads(question), known))
        except (TypeError, ValueError, FileNotFoundError) as error:
            return json.dumps({"refused": str(error)})

    return ask
