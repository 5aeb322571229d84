"""Checks of arguments and files that every module shares: one clear sentence for each mistake."""

import contextlib
import difflib
import json
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any


def positive(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an int, or raise if it is not a whole number of at least ``minimum``."""
    if not _whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def integers(name: str, value: Any, length: int, minimum: int = 1) -> tuple[int, ...]:
    """Return ``value`` as a tuple of ``length`` ints; one int stands for a pair of equal ones."""
    if length == 2 and _whole(value):
        value = (value, value)
    ordered = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | Set)
    given = tuple(value) if ordered else ()
    if len(given) != length:
        raise ValueError(f"{name} must be {length} whole numbers, got {given if ordered else value!r}")
    return tuple(positive(name, v, minimum) for v in given)


def _whole(value: Any) -> bool:
    """Whether ``value`` counts as one whole number: an int, NumPy's ints, but neither a bool nor an array."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return the tail of an error sentence: the nearest allowed name, or (ten of) those known."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(str(name), allowed, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(allowed) - 10} more" if len(allowed) > 10 else ""
    return f"known are {', '.join(allowed[:10])}{more}"


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Return ``value``, or raise naming what is allowed."""
    allowed = list(allowed)
    if type(value) not in map(type, allowed) or value not in allowed:  # True equals 1, but is not meant
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def keys(what: str, data: Any, required: Iterable[str], optional: Iterable[str] = ()) -> Mapping[str, Any]:
    """Return ``data`` if it is a mapping with exactly these keys, or raise naming the first wrong one."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be a mapping, got {type(data).__name__}")
    required, optional = list(required), list(optional)
    for key in data:
        if key not in required and key not in optional:
            raise ValueError(f"unknown key {key!r} in {what}; {nearest(key, required + optional)}")
    missing = [key for key in required if key not in data]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(map(repr, missing))}")
    return data


def read_json(path: str | Path, what: str) -> Any:
    """Return the content of a JSON file; a missing, truncated or foreign file is one clear sentence."""
    return _read(path, what, json.loads, json.JSONDecodeError)


def read_yaml(path: str | Path, what: str) -> Any:
    """Return the content of a YAML file, or raise as `read_json` does."""
    import yaml

    return _read(path, what, yaml.safe_load, yaml.YAMLError)


def _read(path: str | Path, what: str, parse: Callable[[str], Any], damaged: type[Exception]) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, damaged) as error:
        raise ValueError(f"{path} is not a readable {what}: {' '.join(str(error).split())}") from error


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary neighbour is renamed into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
