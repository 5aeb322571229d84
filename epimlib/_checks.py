"""Checks of arguments and files that every module shares: one clear sentence for each mistake."""

import contextlib
import dataclasses
import difflib
import errno
import functools
import json
import math
import operator
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent
PROJECT = LIBRARY / "project" if (LIBRARY / "project").is_dir() else LIBRARY.parent
"""Where notebooks and data lie: what a wheel holds of them, else the clone of the project."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk that are no fault of the request."""
LINE = 400
"""Most characters of an error line."""
SIZES = {"JSON": 64 << 20, "YAML": 64 << 10}
"""Largest files that are read [bytes], each in seconds."""
DEPTH = 100
"""Most lists and mappings inside each other in a file."""
NODES = 100_000
"""Most values of a YAML file once its aliases are written out."""
DIGITS = 40
"""Most digits of a whole number in a file; the state of a random generator has 39."""


def positive(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``value`` as an int, or raise if it is not a whole number from ``minimum`` to ``maximum`` (None: any)."""
    if not _whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}")
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


def known_layers(what: str, given: Iterable[str], layers: Collection[str], owner: str) -> None:
    """Raise if a name that is given is not among the layers of ``owner``; ``what`` is subject and verb."""
    for name in given:
        if name not in layers:
            raise ValueError(f"{what} layer {name!r}, which {owner} lacks; {nearest(name, layers)}")


def same_layers(what: str, given: Iterable[str], layers: Iterable[str], owner: str) -> None:
    """Raise if ``what``, which says something of every layer by its name, names another layer or lacks one."""
    given, layers = list(given), list(layers)
    known_layers(f"{what} name", given, layers, owner)
    missing = [name for name in layers if name not in given]
    if missing:
        raise ValueError(f"{what} lack layer {missing[0]!r} (and {len(missing) - 1} more)")


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Return ``value``, or raise naming what is allowed."""
    allowed = list(allowed)
    if type(value) not in map(type, allowed) or value not in allowed:  # True equals 1, but is not meant
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def instance(name: str, value: Any, kind: type, makes: str, hint: str = "") -> Any:
    """Return ``value`` if it is of a class, or raise; ``makes`` makes one of a name, ``hint`` ends the sentence."""
    if not isinstance(value, kind):
        given = f"{value!r}; did you mean {makes}({value!r})?" if isinstance(value, str) else type(value).__name__
        raise TypeError(f"{name} must be a {kind.__name__}, got {given}{hint}")
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


def fields_of(what: str, data: Any, cls: type) -> Mapping[str, Any]:
    """Return ``data`` if its keys are fields of a dataclass, those without a default among them; or raise as `keys`."""
    fields = dataclasses.fields(cls)
    needed = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return keys(what, data, needed, [f.name for f in fields])


def name(what: str, value: Any) -> str:
    """Return ``value`` if it names a file or folder on every system, below the folder where it is made; or raise."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a name, got {value!r}")
    device = re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", value, re.IGNORECASE)  # files of Windows in any folder
    if device or not re.fullmatch(r"\w([\w.+ -]{0,98}[\w+-])?", value):
        raise ValueError(
            f"{what} must be a name of at most 100 letters, digits and, within, any of '_-+. ', got {line(repr(value))}"
        )
    return value


def line(text: Any) -> str:
    """Return a text as one line that can be printed anywhere, its middle cut out where it is longer than `LINE`.

    An exception without words is named by its type.
    """
    text = str(text) or (type(text).__name__ if isinstance(text, BaseException) else "")
    if len(text) > 4 * LINE:
        text = f"{text[: 2 * LINE]}\n{text[-2 * LINE :]}"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
    return text if len(text) <= LINE else f"{text[: LINE - 105]} ... {text[-100:]}"


def read_json(path: str | Path, what: str) -> Any:
    """Return the content of a JSON file; a missing, truncated, foreign or oversized file is one clear sentence."""
    return _read(path, what, "JSON", _parse_json)


def read_yaml(path: str | Path, what: str) -> Any:
    """Return the content of a YAML file, or raise as `read_json` does.

    Numbers and bools are those of YAML 1.2: ``1e-3`` is a number, ``1:30``, ``010`` and ``yes`` are texts.
    """
    return _read(path, what, "YAML", parse_yaml)


def load(path: str | Path, what: str, build: Callable[[Any], Any]) -> Any:
    """Return what ``build`` makes of the content of a YAML file, by its suffix, or else of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one sentence that names the file, if it cannot be read or ``build`` refuses what is in it.
    """
    data = (read_yaml if Path(path).suffix in (".yaml", ".yml") else read_json)(path, what)
    try:
        return build(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no {what}: {line(error)}") from error


def is_file(name: str | Path) -> bool:
    """Return whether a name or path is a path: it ends as the files do that a user writes."""
    return isinstance(name, Path) or Path(name).suffix in (".json", ".yaml", ".yml")


def _read(path: str | Path, what: str, kind: str, parse: Callable[[str], Any]) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}")
    with path.open("rb") as file:
        content = file.read(SIZES[kind] + 1)
    try:
        if len(content) > SIZES[kind]:
            raise ValueError(f"it has more than {SIZES[kind] >> 10} KiB")
        return parse(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except RecursionError as error:
        raise ValueError(f"{path} is not a readable {what}: it is nested more than {DEPTH} deep") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a readable {what}: {line(error)}") from error


def _parse_json(text: str) -> Any:
    data = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_float, object_pairs_hook=_object)
    level = [data]
    for _ in range(DEPTH + 1):
        level = [collection for collection in level if isinstance(collection, dict | list)]
        if not level:
            return data
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise ValueError(f"it is nested more than {DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {line(twice)!r} is there twice")
    return data


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text)} digits, more than {DIGITS}")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"a number is not finite: {line(text)}")
    return number


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        ValueError: if it is no YAML, has a key twice or a tag, or is nested too deep, also through its aliases.
    """
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, Loader=_yaml_loader()):  # the C loader's own recursion would overflow the stack
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"it is nested more than {DEPTH} deep")
        loader = _yaml_loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(line(error)) from error


@functools.cache
def _yaml_loader() -> type:
    """Return PyYAML's safe loader, the fast one where it was built, with the numbers of YAML 1.2."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML copies it for each class)

    _resolve_as_12(Loader)
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _integer(node.value))
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _float(node.value))
    return Loader


def _resolve_as_12(kind: Any) -> None:
    """Let a loader or dumper of PyYAML know what YAML 1.2 takes for something else than a text."""
    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return how many values a YAML node has and how deep they are, its aliases written out; raise if that is much."""
    import yaml

    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in ("null", "bool", "int", "float", "merge", "str", "seq", "map"):
        raise ValueError(f"a value has the tag {line(node.tag)!r}")
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise ValueError("an alias stands inside of what it stands for")
        return measured
    known[id(node)] = None
    children = node.value
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, _ in children:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"a key is no text, line {key.start_mark.line + 1}")
            if key.value in names:
                raise ValueError(f"the key {line(key.value)!r} is there twice, line {key.start_mark.line + 1}")
            names.add(key.value)
        children = [value for _, value in children]
    measures = [_measure(child, known) for child in children]
    count, depth = 1 + sum(n for n, _ in measures), 1 + max((d for _, d in measures), default=0)
    if depth > DEPTH:
        raise ValueError(f"it is nested more than {DEPTH} deep")
    if count > NODES:
        raise ValueError(f"its aliases stand for more than {NODES} values")
    known[id(node)] = count, depth
    return count, depth


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all, so that a power cut after it loses nothing.

    A temporary neighbour reaches the disk and is renamed into place.

    Raises:
        OSError: naming ``path``, if it cannot be written; what was there is still there.
    """
    path = Path(path)
    temporary = None
    try:
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def make_folder(path: Path, exist_ok: bool = True) -> None:
    """Make a folder and those above it that are missing, so that a power cut loses none."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for folder in new:
        sync(folder.parent)


def sync(path: Path) -> None:
    """Let the names in a folder reach the disk."""
    if os.name == "nt":  # which opens no folder
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # of a folder that can be written and not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that know no such thing
            raise
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_yaml(path: str | Path, data: Any) -> None:
    """Write ``data`` as YAML, whole or not at all; a text that YAML 1.1 or 1.2 takes for a number is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    _resolve_as_12(Dumper)
    write_text(
        path,
        yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=math.inf),
    )
