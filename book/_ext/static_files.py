"""Files that pages and slides load, copied out of installed packages."""

import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

MATHJAX = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2")


def copy(source: Path, names: Iterable[str], target: Path) -> None:
    """Copy files, and folders as a whole, under their names; what is there already is left."""
    for name in names:
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (source / name).is_dir() else shutil.copy2)(source / name, target / name)


def copy_mathjax(static: Path) -> None:
    """Copy MathJax, and the fonts that it draws with, into a folder of static files."""
    # The name has hyphens, so the package cannot be imported; only its files are wanted.
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent
    copy(package / "static" / "mathjax", MATHJAX, static / "mathjax")
