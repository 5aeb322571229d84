"""What a wheel holds besides the library, below ``epimlib/project``: what ``epim`` reads where there is no clone.

All else is in pyproject.toml. Folders that are mapped there would turn an editable install from one line in a .pth file
into hooks, and the notebooks of a clone import from its ``tests``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HELD = (
    "notebooks/*.ipynb", "data/**/*.*", "book/figures/*", "tests/__init__.py", "tests/mnsim_reference.py",
    "tests/reference/*",
)  # fmt: skip
CACHE = Path("data", "cache")
"""Data sets, which anybody fetches."""


class Build(build_py):
    """Copy the library, then the rest."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        held = Path(self.build_lib) / "epimlib" / "project"
        shutil.rmtree(held, ignore_errors=True)  # of an earlier build
        for path in (path for pattern in HELD for path in Path().glob(pattern) if CACHE not in path.parents):
            (held / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, held / path)


setup(cmdclass={"build_py": Build})
