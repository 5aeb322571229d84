"""Every allowed parameter runs to the end: random parameter sets, at sizes that take seconds.

``make test`` runs one set for each notebook, ``make fuzz`` many, other ones each time. A set that fails is printed as
the command that repeats it.
"""

import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from epimlib import Design, Hardware
from epimlib.epitome.networks import load_network
from epimlib.lab.notebooks import Notebook, RunError, execute
from epimlib.lab.parameters import Parameter, resolve
from epimlib.lab.records import RunRecord

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SETS = int(os.environ.get("FUZZ_SETS", "1"))
"""Parameter sets for each notebook."""
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
"""Seed of the first set."""
SIZES = {
    "epochs",
    "epochs_after",
    "images",
    "pairs",
    "points",
    "population",
    "generations",
    "probes",
    "retrain",
    "rivals",
}
"""Parameters that say how much is computed and change nothing else: drawn no larger than the quick profile's."""
NETWORKS = ["resnet18", "resnet50@96", "mobilenetv2_100", "efficientnet_b0", "convnext_tiny", "vit_tiny_patch16_224"]
NETWORKS += ["regnety_002", "repvgg_a0@96", "network.json"]
"""Networks that are drawn: stored, of timm, and a file."""
HARDWARE = ["default", "isaac", "mnsim-2024", "hardware.yaml"]


def draw(p: Parameter, rng: np.random.Generator):
    """Return a random allowed value: an end of the range, or any value within it, evenly in the logarithm."""
    if p.type.startswith("list"):
        most = p.most or max(p.least, len(p.default), 3)
        values = [draw_element(p, rng) for _ in range(rng.integers(p.least, most + 1))]
        if p.order:
            values = sorted(set(values), reverse=p.order == "descending")
        return values if len(values) >= p.least else p.default
    return draw_element(p, rng)


def draw_element(p: Parameter, rng: np.random.Generator):
    if p.object:
        names = {"any network": NETWORKS, "any hardware": HARDWARE, "any design": ["design.json"]}[p.object]
        return names[rng.integers(len(names))]
    if p.type == "bool":
        return bool(rng.integers(2))
    if p.choices:
        return p.choices[rng.integers(len(p.choices))]
    if p.low is None:
        return p.default  # a free text
    high = min(p.high, p.default) if p.name in SIZES else p.high
    ends = [p.low, high]
    if rng.random() < 0.3:
        return ends[rng.integers(2)]
    smallest = min(1, high / 1000) if p.low <= 0 else 0
    value = math.exp(rng.uniform(math.log(p.low + smallest), math.log(high + smallest))) - smallest
    return max(p.low, min(high, round(value) if p.type.endswith(("int", "int]")) else value))


def write_files(network: str | None) -> None:
    """Write the files that can be drawn into this folder; the design is one of the network."""
    load_network("resnet10t@64").save("network.json")
    changes = {"crossbar.rows": 512, "crossbar.cell_bits": 1, "adc.kind": "ramp", "reuse": False}
    Hardware.preset("isaac").replace(changes).save("hardware.yaml")
    if network is not None:
        Design.uniform(load_network(network), rows=512, cols=128, wrap=2).save("design.json")


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SETS))
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_allowed_parameters_run_to_the_end_or_are_refused_by_a_sentence(path, seed, tmp_path, monkeypatch):
    notebook = Notebook.load(path)
    rng = np.random.default_rng([seed, zlib.crc32(path.stem.encode())])
    parameters = [p for p in notebook.parameters if p.name != "profile"]
    given = {p.name: draw(p, rng) for p in parameters if rng.random() < 0.5}
    monkeypatch.chdir(tmp_path)
    write_files(given.get("network", next((p.default for p in parameters if p.name == "network"), None)))
    try:
        folder = execute(notebook, given, tmp_path)
    except RunError as error:
        if "raised ParameterError: " not in str(error):
            values = (f"{name}={str(value).replace(' ', '')}" for name, value in given.items())
            pytest.fail(f"epim run {notebook.name} {' '.join(f'-p {value}' for value in values)}\n{error}")
    else:
        assert RunRecord.load(folder).parameters.items() >= resolve(notebook.parameters, given).items()


def test_the_values_drawn_are_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files("resnet18")
    rng = np.random.default_rng(0)
    for p in (p for path in NOTEBOOKS for p in Notebook.load(path).parameters):
        for _ in range(50):
            assert p.check(draw(p, rng)) is not None
