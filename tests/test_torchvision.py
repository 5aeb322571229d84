"""timm and torchvision import beside any build of torch, after a module of epimlib that needs torch."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import epimlib.epitome.{module}
assert "torchvision" not in sys.modules, "what many need and few use takes seconds"
import timm, torch, torchvision
assert timm.create_model("resnet18").eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
assert torchvision.transforms.functional.center_crop(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
"""
COMPILED = """
import importlib.machinery, importlib.util, sys, torch
folder = sys.argv[1]
importlib.util.find_spec = lambda name: importlib.machinery.PathFinder.find_spec(name, [folder])
torch.ops.load_library = lambda path: print("loaded", path)
import epimlib.epitome.layers
import epimlib.epitome.trace
assert not hasattr(torch.ops.torchvision, "nms")
"""


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["layers", "trace"])
def test_timm_imports_after_epimlib(module):
    run(PROGRAM.format(module=module))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torchvision is compiled for PyPI's torch")
def test_operators_that_load_are_not_declared(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    compiled = tmp_path / "torchvision" / "_C.so"
    compiled.touch()
    assert run(COMPILED, tmp_path).split() == ["loaded", str(compiled)]
