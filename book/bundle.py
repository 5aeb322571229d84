"""Pack the built book and everything that it was made from into one file: bundle.py [FILE].

The file, by default ``_build/epim.zip``, holds one folder. Its ``index.html`` opens the book without a server; the rest
is the project as Git knows it, so that ``make`` and ``epim`` work there as in a clone.
"""

import subprocess
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
FOLDER = "epim"
DOOR = """<!doctype html><html lang="en"><meta charset="utf-8"><title>EPIM companion</title>
<meta http-equiv="refresh" content="0; url=_build/html/index.html">
<p><a href="_build/html/index.html">Open the book</a></p></html>
"""


def main(target: str = "_build/epim.zip") -> int:
    """Write the file, whole or not at all, and return the exit code."""
    if not (HTML / "index.html").is_file():
        print("bundle: there is no built book in _build/html; run make book", file=sys.stderr)
        return 1
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        print("bundle: Git does not know this folder; make bundle needs a clone", file=sys.stderr)
        return 1
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    pages = [path for path in HTML.rglob("*") if path.is_file()]
    final = Path(target)
    partial = final.with_name(final.name + ".partial")
    with ZipFile(partial, "w", ZIP_DEFLATED) as bundle:
        bundle.writestr(f"{FOLDER}/index.html", DOOR)
        for path in sorted({path for path in files if path.is_file()} | set(pages)):
            bundle.write(path, f"{FOLDER}/{path.relative_to(ROOT).as_posix()}")
    partial.replace(final)
    print(f"{final}, {final.stat().st_size / 1e6:.0f} MB: unzip it, and open {FOLDER}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
