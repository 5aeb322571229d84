"""Lines of the library by room: code, docstrings, comments and blank lines."""

import ast
import tokenize
from collections import Counter
from pathlib import Path

import pandas as pd

LIBRARY = Path(__file__).parents[1] / "epimlib"
KINDS = ["code", "docstring", "comment", "blank"]
CORE = ["epitome", "pim", "quant/grid.py", "quant/quantize.py"]
"""What somebody reads who wants to know how an epitome works; without ``pim/mnsim.py``."""


def lines(path: Path) -> Counter:
    """Return how many lines of each kind a file has. A text as a statement is a docstring."""
    text = path.read_text(encoding="utf-8")
    kinds = dict.fromkeys(range(1, len(text.splitlines()) + 1), "blank")
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                kinds[token.start[0]] = "comment"
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.strip().startswith("#"):
            kinds[number] = "code"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            kinds |= dict.fromkeys(range(node.lineno, node.end_lineno + 1), "docstring")
    return Counter(kinds.values())


def main() -> None:
    rows = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        place = path.relative_to(LIBRARY)
        room = place.parts[0] if len(place.parts) > 1 else "(no room)"
        core = any(place.as_posix().startswith(part) for part in CORE) and place.name != "mnsim.py"
        for name in [room, "all", *(["core"] if core else [])]:
            rows[name] = rows.get(name, Counter()) + lines(path) + Counter(files=1)
    table = pd.DataFrame(rows).T.fillna(0).astype(int)[["files", *KINDS]]
    table["lines"] = table[KINDS].sum(axis=1)
    print(table.sort_values("lines").to_string())


if __name__ == "__main__":
    main()
