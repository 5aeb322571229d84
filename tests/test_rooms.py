"""The rooms of the library: what may import what, and what needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "epimlib"
BELOW = {
    "epitome": set(),
    "pim": {"epitome"},
    "quant": {"epitome", "pim"},
    "datapath": {"epitome", "pim", "quant"},
    "search": {"epitome", "pim", "quant"},
    "rivals": {"epitome", "pim", "quant", "search"},
    "related": {"epitome", "pim", "quant", "datapath", "search", "rivals"},
    "lab": {"epitome", "pim", "quant", "datapath", "search", "rivals", "related"},
    "teach": {"epitome", "pim", "quant", "datapath", "search", "rivals", "related", "lab"},
    "train": {"epitome", "pim", "quant", "datapath", "search", "rivals", "related", "lab"},
}
"""The rooms that each room may import. ``_checks`` and ``_torchvision`` are below all, ``cli`` is above."""
SHARED = {"_checks", "_torchvision"}
PURE = {"pim", "search", "teach"}
NO_TORCH = ["epimlib", "epimlib.epitome.plan", "epimlib.epitome.design", "epimlib.epitome.workload", "epimlib.search"]
NO_TORCH += [
    f"epimlib.{path.parent.name}.{path.stem}" for path in LIBRARY.glob("*/[!_]*.py") if path.parent.name in PURE
]


def imported(path: Path) -> set[str]:
    """Return the modules of epimlib that a file imports, without the package's name; anywhere in the file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {f"{n.module}.{alias.name}" for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}
    found |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return {name.removeprefix("epimlib.") for name in found if name.startswith("epimlib.")}


def test_every_room_is_known():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == set(BELOW)
    assert all(rooms <= set(list(BELOW)[:number]) for number, rooms in enumerate(BELOW.values()))


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_rooms_below_it(room):
    allowed = BELOW[room] | {room} | SHARED
    for path in (LIBRARY / room).rglob("*.py"):
        assert {name.partition(".")[0] for name in imported(path)} <= allowed, path


def test_what_all_rooms_share_imports_none():
    for name in SHARED:
        assert imported(LIBRARY / f"{name}.py") == set()


def test_no_modules_import_each_other():
    modules = {".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in LIBRARY.rglob("[!_]*.py")}
    names = {name: imported(path) for name, path in modules.items()}
    edges = {
        name: {m for m in modules if m != name and any(i == m or i.startswith(f"{m}.") for i in names[name])}
        for name in modules
    }
    reached = {name: set(edges[name]) for name in edges}
    for _ in edges:
        for name in edges:
            reached[name] |= set().union(*(edges[other] for other in reached[name]))
    assert {name for name in edges if name in reached[name]} == set()


@pytest.mark.parametrize("module", NO_TORCH)
def test_it_imports_without_torch_and_without_what_only_some_functions_need(module):
    heavy = ["torch", "torchvision", "timm", "pandas", "scipy", "matplotlib", "seaborn", "sklearn"]
    program = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
