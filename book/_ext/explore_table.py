"""The table of the page *Explore*: what the library answers to every combination of some choices.

The library computes a layer of one shape once for each accelerator, which `epimlib.evaluate` cannot do across designs;
a test holds the table to it. Values are rounded to as many digits as the page shows, equal rows are stored once.
"""

import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
from explore_answer import changed, design_of, epitome, matrix

from epimlib.epitome.networks import TITLES
from epimlib.epitome.workload import Workload
from epimlib.pim.cost import CostModel
from epimlib.pim.hardware import Crossbar, Hardware
from epimlib.pim.mapping import bit_slices, map_layer
from epimlib.pim.pipeline import pipeline

ACCELERATOR = {
    "preset": ["default", "isaac"],
    "crossbar": [128, 256, 512],
    "cell_bits": [1, 2, 4],
    "bits": [3, 5, 9],
    "activation_bits": [5, 9],
}
EPITOME = {"rows": [256, 512, 1024, 2048], "cols": [128, 256, 512], "wrap": ["full", 2, 1]}
AXES = {**ACCELERATOR, "network": list(TITLES), "design": ["epitome", "dense"], **EPITOME}
"""The choices, those of the accelerator first."""
BASELINE_BITS = 32
SUMS = ("crossbars", "factor", "latency", "sequential", "energy", "area", "utilization")
LAYERS = ("crossbars", "utilization", "latency", "energy")


def combinations(axes: dict[str, list]) -> list[dict[str, Any]]:
    """Return every combination of values, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


DESIGNS = [{"design": "epitome", **shape} for shape in combinations(EPITOME)] + [{"design": "dense"}]


class Keys:
    """The layers of all networks in all designs, those that cost the same once."""

    def __init__(self) -> None:
        self.layers: list[tuple] = []
        """``(layer, epitome or None)``"""
        self.use: dict[str, list[np.ndarray]] = {}
        """For every network, for every design: which of them its layers are, ``(layers,)``."""
        self.networks = {name: Workload.load(name) for name in TITLES}
        self.positions = {name: [layer.positions for layer in w.layers] for name, w in self.networks.items()}
        known: dict[tuple, int] = {}
        for name, workload in self.networks.items():
            designs = [design_of(workload, question) for question in DESIGNS]
            self.use[name] = [
                np.array([self._number(known, layer, design.get(layer.name)) for layer in workload.layers])
                for design in designs
            ]

    def _number(self, known: dict[tuple, int], layer: Any, spec: Any) -> int:
        fields = {**vars(layer), "inputs": len(layer.inputs), "name": None}
        key = (*fields.values(), spec)
        if key not in known:
            known[key] = len(self.layers)
            self.layers.append((layer, spec))
        return known[key]


keys = cache(Keys)


def rows_of(part: dict[str, Any]) -> list[dict[str, list]]:
    """Return the rows of the table for every accelerator of one preset and one size of crossbars."""
    spans: dict[tuple, float] = {}
    rest = {name: values for name, values in ACCELERATOR.items() if name not in part}
    return [accelerator(part | more, spans) for more in combinations(rest)]


def accelerator(choice: dict[str, Any], spans: dict[tuple, float]) -> dict[str, list]:
    """Return the rows of one accelerator; ``spans`` remembers the pipelines that were computed."""
    hardware = changed(Hardware.preset(choice["preset"]), choice)
    model, refused = CostModel(hardware, choice["activation_bits"]), {}
    values = np.full((len(keys().layers), 5), np.nan)
    for number, (layer, spec) in enumerate(keys().layers):
        try:
            cost = model.layer(layer, spec, choice["bits"] if layer.weighted else None)
            values[number] = *cost.sums, cost.utilization
        except ValueError as error:
            refused[number] = str(error)
    latency, energy, _, crossbars, use = values.T
    shown = zip(LAYERS, (crossbars, 100 * use, 1e3 * latency, 1e3 * energy), strict=True)
    rows = {f"layer {name}": [rounded(value, 3) for value in column.tolist()] for name, column in shown}
    rows |= {name: [] for name in (*SUMS, "refused")}
    slices = bit_slices(BASELINE_BITS, hardware.crossbar)
    for name, workload in keys().networks.items():
        dense = None
        for used in keys().use[name]:
            sentence = next((refused[number] for number in used.tolist() if number in refused), None)
            rows["refused"].append(sentence)
            sums = [None] * len(SUMS)
            if not sentence:
                dense = dense or _dense(workload, hardware.crossbar, slices)
                sums = _sums(workload, values[used], dense, spans)
            for metric, value in zip(SUMS, sums, strict=False):
                rows[metric].append(value if metric == "crossbars" else rounded(value, 4))
    return rows


def _dense(workload: Workload, crossbar: Crossbar, slices: int) -> int:
    """Return the crossbars of the dense network."""
    return sum(map_layer(layer, None, crossbar, slices).crossbars for layer in workload.weighted)


def _sums(workload: Workload, values: np.ndarray, dense: int, spans: dict[tuple, float]) -> list[float]:
    """Return the sums in the order of `SUMS`, from latency, energy, area, crossbars and use of every layer."""
    latency, energy, area, crossbars, use = values.T
    times = tuple((latency / keys().positions[workload.name]).tolist())
    if (workload.name, times) not in spans:
        spans[workload.name, times] = max(finish for _, finish in pipeline(workload, times))
    total = int(crossbars.sum())
    used = 100 * (use * crossbars).sum() / total
    span = spans[workload.name, times]
    return [total, dense / total, 1e3 * span, 1e3 * latency.sum(), 1e3 * energy.sum(), 1e6 * area.sum(), used]


def rounded(value: float | None, digits: int) -> float | int | None:
    """Return a value with some significant digits, a whole number as an int with all of them."""
    if value is None or value != value:
        return None
    if value == int(value):
        return int(value)
    value = float(f"{value:.{digits}g}")
    return int(value) if value == int(value) else value


def table() -> dict[str, Any]:
    """Return the table as plain data.

    ``axes`` are the choices, ``values`` hold for each metric the distinct rows and, for every accelerator, the number
    of its row. A row of a sum has a value for every network and design, one of a layer for every key of ``layers``.
    """
    parts = combinations({name: ACCELERATOR[name] for name in ("preset", "crossbar")})
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = list(itertools.chain.from_iterable(pool.map(rows_of, parts)))
    values = {}
    for metric in rows[0]:
        known: dict[str, int] = {}
        of = [known.setdefault(json.dumps(row[metric]), len(known)) for row in rows]
        values[metric] = {"rows": [json.loads(text) for text in known], "of": of}
    layers = {
        name: {
            "weighted": [[layer.name, matrix(layer)] for layer in workload.weighted],
            "keys": [used[[layer.weighted for layer in workload.layers]].tolist() for used in keys().use[name]],
        }
        for name, workload in keys().networks.items()
    }
    epitomes = [epitome(spec) for _, spec in keys().layers]
    return {"axes": AXES, "layers": layers, "epitomes": epitomes, "values": values}
