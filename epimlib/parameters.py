"""The parameters of a notebook: typed, with a range, and checked wherever the notebook runs.

The first code cell of a notebook is tagged ``parameters`` and holds one parameter per line::

    rows: int = 1024  # word lines of an epitome [word lines], 16..8192; full: 2048

that is ``name: type = default  # help [unit], range; full: value``. The types are those of `TYPES`. The
range, ``low..high`` with both ends included or ``a|b|c``, holds for each element of a list; only a free text
and a bool have none. The value behind ``full:`` replaces the default in the full profile. The line is the
only description of a parameter: `check` reads it inside the kernel, the ``epim`` command and the appendix of
the book read it from the file.
"""

import ast
import io
import linecache
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from epimlib._checks import nearest

TYPES = {"int": int, "float": float, "bool": bool, "str": str}
TYPES |= {"list[int]": int, "list[float]": float, "list[str]": str}
LINE = "name: type = default  # help [unit], range; full: value"
COMMENT = re.compile(
    r"# *(?P<help>[^\[\];]+?) *\[(?P<unit>[^\[\]]+)\](, *(?P<range>[^;]+?))?( *; *full: *(?P<full>.+))?"
)


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell.

    Attributes:
        name: its name in the notebook.
        type: one of `TYPES`.
        default: its value in the quick profile.
        help: what it does.
        unit: its unit.
        low, high: least and largest value (of each element of a list), or None.
        choices: the allowed values (of each element of a list), or none.
        full: its value in the full profile, None where that is the default.
    """

    name: str
    type: str
    default: Any
    help: str
    unit: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    full: Any = None

    @property
    def range(self) -> str:
        """Return the allowed values as the parameters cell writes them; empty if all of the type are."""
        return f"{self.low}..{self.high}" if self.low is not None else "|".join(map(str, self.choices))

    def check(self, value: Any) -> Any:
        """Return ``value``; an int where a float is wanted becomes one.

        Raises:
            TypeError: if it is of another type.
            ValueError: if it, or an element of it, is out of range.
        """
        if not self.type.startswith("list"):
            return self._check(value, value)
        if not isinstance(value, list):
            raise TypeError(f"{self.name} must be of type {self.type}, got {value!r}")
        return [self._check(element, value) for element in value]

    def _check(self, element: Any, value: Any) -> Any:
        kind = TYPES[self.type]
        if kind is float and type(element) is int:
            element = float(element)
        if type(element) is not kind:
            raise TypeError(f"{self.name} must be of type {self.type}, got {value!r}")
        if self.low is not None and not self.low <= element <= self.high:
            raise ValueError(f"{self.name} must be in {self.range} [{self.unit}], got {value!r}")
        if self.choices and element not in self.choices:
            raise ValueError(f"{self.name} must be {' or '.join(map(repr, self.choices))}, got {value!r}")
        return element

    def parse(self, text: str) -> Any:
        """Return the value that a command line means: ``3``, ``0.5``, ``true``, ``name``, or ``3,5`` for a list.

        Raises:
            TypeError: if the text is not of this type.
            ValueError: if the value, or an element of it, is out of range.
        """
        convert = _bool if self.type == "bool" else TYPES[self.type]
        many = self.type.startswith("list")
        try:
            values = [convert(part.strip()) for part in (text.strip("[]").split(",") if many else [text])]
        except (KeyError, ValueError):
            raise TypeError(f"{self.name} must be of type {self.type}, got {text!r}") from None
        return self.check(values if many else values[0])


def _bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def parse_parameters(source: str, where: str = "the parameters cell") -> tuple[Parameter, ...]:
    """Return the parameters that a parameters cell declares, without executing it.

    Raises:
        ValueError: naming ``where`` and the line, if a line does not declare a parameter.
    """
    try:
        statements = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{where} is not Python: {error}") from error
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    parameters: dict[str, Parameter] = {}
    for statement in statements:
        try:
            parameter = _parse_line(statement, comments.get(statement.lineno, ""))
            if parameter.name in parameters:
                raise ValueError(f"{parameter.name} is declared twice")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}, line {statement.lineno}: {error}") from error
        parameters[parameter.name] = parameter
    if "profile" not in parameters or parameters["profile"].choices != ("quick", "full"):
        raise ValueError(f'{where} lacks the line: profile: str = "quick"  # help [name], quick|full')
    return tuple(parameters.values())


def _parse_line(statement: ast.stmt, comment: str) -> Parameter:
    match = COMMENT.fullmatch(comment.strip())
    alone = statement.col_offset == 0 and statement.lineno == statement.end_lineno
    if not (match and alone and isinstance(statement, ast.AnnAssign) and statement.value is not None):
        raise ValueError(f"a parameter is written {LINE!r}, got {f'{ast.unparse(statement)}  {comment}'!r}")
    name, kind = ast.unparse(statement.target), ast.unparse(statement.annotation)
    if kind not in TYPES:
        raise ValueError(f"the type of {name} must be one of {', '.join(TYPES)}, got {kind}")
    low, high, choices = _parse_range(name, TYPES[kind], match["range"])
    default = _literal(name, ast.unparse(statement.value))
    parameter = Parameter(name, kind, default, match["help"], match["unit"], low, high, choices)
    full = None if match["full"] is None else parameter.check(_literal(name, match["full"]))
    return replace(parameter, default=parameter.check(default), full=full)


def _literal(name: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        raise ValueError(f"the value of {name} must be a literal, got {text}") from None


def _parse_range(name: str, kind: type, text: str | None) -> tuple[Any, Any, tuple[Any, ...]]:
    """Return (low, high, choices) of ``low..high`` or ``a|b|c``."""
    try:
        if text is None and kind in (bool, str):
            return None, None, ()
        if text is not None and "|" in text and kind is not bool:
            return None, None, tuple(kind(choice.strip()) for choice in text.split("|"))
        low, high = (kind(bound) for bound in text.split("..", 1))
        if kind in (int, float) and -math.inf < low <= high < math.inf:
            return low, high, ()
    except (AttributeError, ValueError):
        pass
    raise ValueError(f"the range of {name} must be low..high or a|b|c (of a bool: none), got {text}")


def named(parameters: tuple[Parameter, ...], name: str) -> Parameter:
    """Return the parameter of that name; an unknown one raises ``ValueError`` with the nearest known one."""
    known = {parameter.name: parameter for parameter in parameters}
    if name not in known:
        raise ValueError(f"unknown parameter {name!r}; {nearest(name, known)}")
    return known[name]


def resolve(parameters: tuple[Parameter, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter: as given, else as the profile says.

    Raises:
        ValueError: naming an unknown parameter with the nearest known one, or a value out of range.
        TypeError: naming a value of another type.
    """
    values = {name: named(parameters, name).check(value) for name, value in given.items()}
    full = values.get("profile", named(parameters, "profile").default) == "full"
    return {p.name: values.get(p.name, p.full if full and p.full is not None else p.default) for p in parameters}


def check(namespace: dict[str, Any]) -> None:
    """Check the parameters of the notebook whose ``globals()`` are given, and say what the reader sees.

    Call it in the cell after the parameters cell. In the full profile it sets every parameter that has a full
    value and was not set otherwise.

    Raises:
        ValueError: if the parameters cell is malformed, a parameter unknown or a value out of range.
        TypeError: if a value has another type than its annotation says.
    """
    inputs = _inputs(namespace)
    declared = [i for i, source in enumerate(inputs) if _declares_profile(source)]
    if not declared:
        raise ValueError("check found no parameters cell; run the cell that declares profile before it")
    parameters = parse_parameters(inputs[declared[-1]])
    # papermill puts its values into a cell of its own, which begins with this comment.
    injected = [source for source in inputs[declared[-1] + 1 :] if source.startswith("# Parameters\n")]
    given = {name: namespace[name] for source in injected for name in _assigned(source)}
    edited = {p.name: namespace[p.name] for p in parameters if namespace[p.name] != p.default}
    values = resolve(parameters, edited | given)
    namespace.update(values)
    _display_markdown(_status(parameters, values))


def _inputs(namespace: Mapping[str, Any]) -> list[str]:
    """Return the source of every cell executed so far, oldest first."""
    sources = [source for source in namespace.get("In", []) if source]
    if not sources:  # nbval keeps no history; IPython keeps code for tracebacks, in entries without a date
        sources = ["".join(entry[2]) for entry in linecache.cache.values() if entry[1:2] == (None,)]
    return sources


def _declares_profile(source: str) -> bool:
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return any(isinstance(s, ast.AnnAssign) and ast.unparse(s.target) == "profile" for s in statements)


def _assigned(source: str) -> list[str]:
    statements = ast.parse(source).body
    return [ast.unparse(target) for s in statements if isinstance(s, ast.Assign) for target in s.targets]


def _status(parameters: tuple[Parameter, ...], values: Mapping[str, Any]) -> str:
    changed = [
        f"`{p.name} = {values[p.name]!r}` instead of `{p.default!r}`"
        for p in parameters
        if p.name != "profile" and values[p.name] != p.default
    ]
    others = ", ".join(changed) or "every parameter at its default"
    return f"Profile **{values['profile']}**, {others}."


def _display_markdown(text: str) -> None:
    from IPython.display import display

    display({"text/markdown": text, "text/plain": re.sub(r"[*`]", "", text)}, raw=True)
