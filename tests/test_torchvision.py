"""timm and torchvision import beside any build of torch."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from epimlib._torchvision import ensure_torchvision
assert "torch" not in sys.modules
ensure_torchvision()
first = sys.modules["torchvision"]
ensure_torchvision()
assert sys.modules["torchvision"] is first, "the second call must change nothing"
import timm, torch, torchvision
assert timm.create_model("resnet18").eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
assert torchvision.transforms.functional.center_crop(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
"""


def test_timm_imports_after_the_torchvision_check():
    result = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_another_failure_of_torchvision_is_not_hidden(tmp_path, monkeypatch):
    from epimlib._torchvision import ensure_torchvision

    (tmp_path / "torchvision.py").write_text("raise RuntimeError('no disk')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RuntimeError, match="no disk"):
        ensure_torchvision()
