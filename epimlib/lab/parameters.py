"""The parameters of a notebook: typed, with a range, and checked wherever the notebook runs.

The first code cell of a notebook is tagged ``parameters`` and holds one parameter per line::

    rows: int = 1024  # word lines of an epitome [word lines], 16..8192; full: 2048

that is ``name: type = default  # help [unit], range, values; full: value``. The types are those of `TYPES`. The
range, ``low..high`` with both ends included or ``a|b|c``, holds for each element of a list; only a free text
and a bool have none. A list has at least one value; a line may ask for more and for an order of them::

    bits: list[int] = [3, 5]  # of a weight [bit], 2..9, 2.. values, ascending

``2.. values`` are two or more, ``2..5 values`` two to five, ``2 values`` exactly two; the orders are those of
`ORDERS`. A text may name an object instead, one of `OBJECTS`: a name or the path of a file, which is read when the
value is checked::

    network: str = "resnet50"  # network that is evaluated [name], any network

The value behind ``full:`` replaces the default in the full profile. The line is the only description of a
parameter: `check` reads it inside the kernel, the ``epim`` command and the appendix of the book read it from the file.
"""

import ast
import contextlib
import io
import itertools
import linecache
import math
import operator
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epimlib._checks import is_file, line, nearest
from epimlib.epitome.design import Design
from epimlib.epitome.networks import load_network
from epimlib.pim.hardware import Hardware

TYPES = {"int": int, "float": float, "bool": bool, "str": str}
TYPES |= {"list[int]": int, "list[float]": float, "list[str]": str}
BOOLS = {"true": True, "false": False}
LINE = "name: type = default  # help [unit], range, values; full: value"
LONGEST = 1 << 16
"""Most characters of a parameters cell."""
COUNT = re.compile(r"(\d{1,4})(?:(\.\.)(\d{0,4}))? values")
ORDERS: dict[str, Callable[[list[Any]], bool]] = {
    "ascending": lambda values: all(itertools.starmap(operator.lt, itertools.pairwise(values))),
    "descending": lambda values: all(itertools.starmap(operator.gt, itertools.pairwise(values))),
    "distinct": lambda values: len(set(values)) == len(values),
}
"""Orders of a list, and whether a list has them."""
OBJECTS: dict[str, Callable[[str], Any]] = {
    "any network": load_network,
    "any hardware": Hardware.load,
    "any design": lambda path: Design.load(path) if path else None,
}
"""What a text may name: a network that is stored, that timm knows or of a JSON file; a preset of hardware or a YAML
file; the JSON file of a design of the notebook's network, or nothing."""


class ParameterError(ValueError):
    """A value that a notebook cannot work with; the sentence says which and what to change."""


def require(condition: bool, sentence: str) -> None:
    """Refuse parameters that do not go together, with a sentence that names them and says what to change.

    For what a line of the parameters cell cannot say, because it depends on another parameter:
    ``require(rows >= 9 * channels, f"rows must be at least 9 * channels = {9 * channels}, got {rows}")``.

    Raises:
        ParameterError: if the condition does not hold.
    """
    if not condition:
        raise ParameterError(sentence)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Refuse what the library refuses in this block with a ``ValueError``: parameters that do not go together.

    Raises:
        ParameterError: with the library's sentence.
    """
    try:
        yield
    except ValueError as error:
        raise ParameterError(line(error)) from error


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
        least, most: how many values a list may have; most is None where there is no limit.
        order: one of `ORDERS`, or empty if any order is allowed.
        object: what the text (each element of a list) names, one of `OBJECTS`, or empty.
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
    least: int = 1
    most: int | None = None
    order: str = ""
    object: str = ""
    full: Any = None

    @property
    def range(self) -> str:
        """Return the allowed values as the parameters cell writes them; empty if all of the type are."""
        span = f"{self.low}..{self.high}" if self.low is not None else "|".join(map(str, self.choices)) or self.object
        count = f"{self._count} values" if (self.least, self.most) != (1, None) else ""
        return ", ".join(filter(None, [span, count, self.order]))

    @property
    def _count(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}..{'' if self.most is None else self.most}"

    def check(self, value: Any) -> Any:
        """Return ``value``; an int where a float is wanted becomes one, and a path an absolute one.

        Raises:
            TypeError: if it is of another type.
            ParameterError: if it, or an element of it, is out of range or names no such object; if a list has too few
                or too many values or another order.
        """
        if not self.type.startswith("list"):
            return self._check(value, value)
        if not isinstance(value, list):
            raise TypeError(f"{self.name} must be of type {self.type}, got {value!r}")
        values = [self._check(element, value) for element in value]
        if not self.least <= len(values) <= (math.inf if self.most is None else self.most):
            some = self._count.removesuffix("..")
            more = "at least " if self._count.endswith("..") else ""
            raise ParameterError(f"{self.name} must have {more}{some} value{'s' * (some != '1')}, got {value!r}")
        if self.order and not ORDERS[self.order](values):
            raise ParameterError(f"the values of {self.name} must be {self.order}, got {value!r}")
        return values

    def _check(self, element: Any, value: Any) -> Any:
        kind = TYPES[self.type]
        if kind is float and type(element) is int:
            element = float(max(-(2**1023), min(element, 2**1023)))  # a larger one would not fit
        if type(element) is not kind:
            raise TypeError(f"{self.name} must be of type {self.type}, got {value!r}")
        if self.low is not None and not self.low <= element <= self.high:
            raise ParameterError(f"{self.name} must be in {self.low}..{self.high} [{self.unit}], got {value!r}")
        if kind is str and not element.isprintable():
            raise ParameterError(f"{self.name} must be a line of printable text, got {value!r}")
        if self.choices and element not in self.choices:
            raise ParameterError(f"{self.name} must be {' or '.join(map(repr, self.choices))}, got {value!r}")
        return self._check_object(element) if self.object else element

    def _check_object(self, name: str) -> str:
        try:
            OBJECTS[self.object](name)
        except (OSError, ValueError) as error:
            raise ParameterError(f"{self.name}: {line(error)}") from error
        return str(Path(name).resolve()) if is_file(name) else name  # notebooks run in a folder of their own

    def parse(self, text: str) -> Any:
        """Return the value that a command line means: ``3``, ``0.5``, ``true``, ``name``, or ``3,5`` for a list.

        Raises:
            TypeError: if the text is not of this type.
            ParameterError: as `check`.
        """
        convert = (lambda word: BOOLS[word.lower()]) if self.type == "bool" else TYPES[self.type]
        many = self.type.startswith("list")
        parts = text.strip("[] ").split(",") if many else [text]
        try:
            values = [convert(part.strip()) for part in parts if part or parts != [""] or not many]
        except (KeyError, ValueError):
            raise TypeError(f"{self.name} must be of type {self.type}, got {text!r}") from None
        return self.check(values if many else values[0])


def parse_parameters(source: str, where: str = "the parameters cell") -> tuple[Parameter, ...]:
    """Return the parameters that a parameters cell declares, without executing it.

    Raises:
        ValueError: naming ``where`` and the line, if a line does not declare a parameter.
    """
    if len(source) > LONGEST:
        raise ValueError(f"{where} has {len(source)} characters, more than {LONGEST}")
    try:
        statements = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        raise ValueError(f"{where} is not Python: {error}") from error
    except (MemoryError, RecursionError) as error:  # of the parser
        raise ValueError(f"{where} is not Python: it is nested too deep") from error
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    parameters: dict[str, Parameter] = {}
    for statement in statements:
        try:
            parameter = _parse_line(statement, comments.get(statement.lineno, ""))
            if parameter.name in parameters:
                raise ValueError(f"{parameter.name} is declared twice")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}, line {statement.lineno}: {error}") from error
        except RecursionError as error:
            raise ValueError(f"{where}, line {statement.lineno}: it is nested too deep") from error
        parameters[parameter.name] = parameter
    if "profile" not in parameters or parameters["profile"].choices != ("quick", "full"):
        raise ValueError(f'{where} lacks the line: profile: str = "quick"  # help [name], quick|full')
    return tuple(parameters.values())


def _parse_line(statement: ast.stmt, comment: str) -> Parameter:
    head, _, full = (part.strip() for part in comment.partition(";"))
    help, _, tail = (part.strip() for part in head.removeprefix("#").partition("["))
    unit, closed, rest = (part.strip() for part in tail.partition("]"))
    described = help and unit and closed and rest[:1] in ("", ",") and full[: len("full:")] in ("", "full:")
    alone = statement.col_offset == 0 and statement.lineno == statement.end_lineno
    assigned = isinstance(statement, ast.AnnAssign) and statement.simple and statement.value is not None
    if not (described and alone and assigned):
        raise ValueError(f"a parameter is written {LINE!r}, got {f'{ast.unparse(statement)}  {comment}'!r}")
    name, kind = ast.unparse(statement.target), ast.unparse(statement.annotation)
    if kind not in TYPES:
        raise ValueError(f"the type of {name} must be one of {', '.join(TYPES)}, got {kind}")
    rules = [rule.strip() for rule in rest.split(",")[1:]]
    span = rules.pop(0) if rules and not (rules[0] in ORDERS or COUNT.fullmatch(rules[0])) else None
    object = span if span in OBJECTS and TYPES[kind] is str else ""
    low, high, choices = (None, None, ()) if object else _parse_range(name, TYPES[kind], span)
    least, most, order = _parse_values(name, kind, rules)
    default = _literal(name, ast.unparse(statement.value))
    parameter = Parameter(name, kind, default, help, unit, low, high, choices, least, most, order, object)
    value = parameter.check(_literal(name, full.removeprefix("full:").strip())) if full else None
    return replace(parameter, default=parameter.check(default), full=value)


def _parse_values(name: str, kind: str, rules: list[str]) -> tuple[int, int | None, str]:
    """Return (least, most, order) of ``2.. values`` and ``ascending``, either of which may be missing."""
    least, most, order = 1, None, ""
    if rules and (count := COUNT.fullmatch(rules[0])):
        least, most = int(count[1]), int(count[3] or count[1]) if count[3] or not count[2] else None
        rules = rules[1:]
    if rules and rules[0] in ORDERS:
        order, *rules = rules
    scalar_with_rules = not kind.startswith("list") and (least, most, order) != (1, None, "")
    if rules or scalar_with_rules or not 1 <= least <= (most or least):
        raise ValueError(f"behind the range of a list {name} stand 'N.. values' and one of {', '.join(ORDERS)}")
    return least, most, order


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
        ValueError: naming an unknown parameter with the nearest known one, or a value out of range; if a design is of
            another network.
        TypeError: naming a value of another type.
    """
    values = {name: named(parameters, name).check(value) for name, value in given.items()}
    full = values.get("profile", named(parameters, "profile").default) == "full"
    values = {p.name: values.get(p.name, p.full if full and p.full is not None else p.default) for p in parameters}
    named_as = {p.object: values[p.name] for p in parameters if p.type == "str"}
    if named_as.get("any design"):
        Design.load(named_as["any design"]).check(load_network(named_as["any network"]))
    return values


def check(namespace: dict[str, Any], **defaults: Any) -> bool:
    """Check the parameters of the notebook whose ``globals()`` are given, and say what the reader sees.

    Call it in the cell after the parameters cell. In the full profile it sets every parameter that has a full
    value and was not set otherwise.

    Args:
        namespace: the notebook's ``globals()``.
        **defaults: the values that the notebook was written with. A reader edits the parameters cell itself, so that
            only here an edited value is known from a default one.

    Returns:
        Whether every parameter has its default, so that what the text says of the results can be asserted.

    Raises:
        ValueError: if the parameters cell is malformed, a parameter unknown or a value out of range.
        TypeError: if a value has another type than its annotation says.
    """
    from IPython.display import display

    inputs = _inputs(namespace)
    declared = [i for i, source in enumerate(inputs) if _declares_profile(source)]
    if not declared:
        raise ValueError("check found no parameters cell; run the cell that declares profile before it")
    parameters = parse_parameters(inputs[declared[-1]])
    defaults = {p.name: p.default for p in parameters if p.name != "profile"} | {"profile": "quick"} | defaults
    parameters = tuple(replace(p, default=p.check(defaults.pop(p.name))) for p in parameters)
    for name in defaults:
        named(parameters, name)
    # papermill puts its values into a cell of its own, which begins with this comment.
    injected = [source for source in inputs[declared[-1] + 1 :] if source.startswith("# Parameters\n")]
    given = {name: namespace[name] for source in injected for name in _assigned(source)}
    edited = {p.name: namespace[p.name] for p in parameters if namespace[p.name] != p.default}
    values = resolve(parameters, edited | given)
    namespace.update(values)
    status = _status(parameters, values)
    display({"text/markdown": status, "text/plain": re.sub(r"[*`]", "", status)}, raw=True)
    return all(values[p.name] == p.default for p in parameters)


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
