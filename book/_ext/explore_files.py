"""Python for the page *Explore*: fetched once, checked, and packed into scripts.

`python explore_files.py [NUMPY]` fetches Pyodide from npm and NumPy's wheel from Pyodide's own distribution, or from
the file or address NUMPY. Whatever the source, a file with another SHA-256 than here is refused.
"""

import base64
import gzip
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

from epimlib._checks import line, write_bytes

FOLDER = Path(__file__).parents[2] / "data" / "cache" / "explorer"
CORE = "https://registry.npmjs.org/pyodide/-/pyodide-0.27.7.tgz"
WHEEL = "numpy-2.0.2-cp312-cp312-pyodide_2024_0_wasm32.whl"
NUMPY = f"https://cdn.jsdelivr.net/pyodide/v0.27.7/full/{WHEEL}"
FILES = {
    "pyodide-lock.json": "9c45b916001a750f4102fc287494f3eab215909c7535c626a20db80fd6333e2c",
    "pyodide.asm.js": "6b4c90de5b7172873f04f21884d0e9d2274e305fe32116558fe3e4fbe3618d51",
    "pyodide.asm.wasm": "a50dd1843f805a0b7c45b61037ee0d7b26dfe85efe0e18ef95a34ad24e401f5f",
    "pyodide.js": "b4cb23a53aba19c221659b9fb40a2f18281d685691dc06647fb0afd0681baf98",
    "python_stdlib.zip": "16611534726e5d8ac2bd8f926410b2dcb8d6f49aa24913463533b457a2115c16",
    WHEEL: "ebb61241d962b98b21597d7ce43b67668a6d5bab3acec4fbe958657320d7cd08",
}
"""SHA-256 of every file; that of the wheel is the one that ``pyodide-lock.json`` states."""
LARGEST = 64 << 20
"""No file is read beyond it [bytes]."""


def trouble(folder: Path) -> str | None:
    """Return one sentence if a file is not there or is another one, else None."""
    for name, expected in FILES.items():
        path = folder / name
        if not path.is_file():
            return f"{name} was not fetched"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            return f"{name} has the SHA-256 {found}, not {expected}"
    return None


def fetch(folder: Path, numpy: str) -> None:
    """Fetch what is not there.

    Raises:
        ValueError: if a file is another one than the manifest names; nothing of it is kept.
        OSError: if a source cannot be read.
    """
    if trouble(folder) is None:
        return
    content = {WHEEL: read(numpy)}
    check(WHEEL, content[WHEEL], numpy)
    try:
        with tarfile.open(fileobj=io.BytesIO(read(CORE))) as archive:
            content |= {name: archive.extractfile(f"package/{name}").read() for name in FILES if name != WHEEL}
    except (tarfile.TarError, KeyError) as error:
        raise ValueError(f"{CORE} is not the package pyodide: {error}") from error
    for name, data in content.items():
        check(name, data, CORE)
    for name, data in content.items():
        write_bytes(folder / name, data)


def read(source: str) -> bytes:
    """Return the content of a file or an address."""
    if "://" in source:
        with urllib.request.urlopen(source, timeout=60) as answer:
            return answer.read(LARGEST)
    with open(source, "rb") as file:
        return file.read(LARGEST)


def check(name: str, content: bytes, source: str) -> None:
    """Raise unless the content is that of the manifest."""
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[name]:
        raise ValueError(f"{name} from {source} has the SHA-256 {found}, not {FILES[name]}")


def pack(content: bytes) -> str:
    """Return bytes as text that a script can hold: a page that is opened from a folder can read scripts only."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


if __name__ == "__main__":
    try:
        fetch(FOLDER, *(sys.argv[1:] or [NUMPY]))
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"explorer: {line(error)}")
