"""Filters of runs and of the points of a sweep: comparisons joined by ``and`` and ``or``, read and never executed."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from epimlib._checks import line, nearest

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
"""What a comparison may say; ``=`` is ``==``."""
COMPARISON = re.compile(
    rf"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<operator>{'|'.join(OPERATORS)})"
    r"""\s*(?P<value>"[^"]*"|'[^']*'|\[[^][]*\]|[\w.@+/-]+)\s*(?:(?P<joint>and|or)\s|(?P<end>\Z))"""
)


def where(text: str, names: Iterable[str]) -> Callable[[Mapping[str, Any]], bool]:
    """Return the filter that a text means, ``rows >= 512 or bits == 3`` for instance.

    A comparison is a name, one of `OPERATORS`, and a value: a number, true, false, a word, a text in quotation marks or
    a list ``[3, 5]``, which is read as the type that the name has. ``and`` joins more closely than ``or``; there are no
    brackets.

    Args:
        text: the filter.
        names: that it may use.

    Returns:
        A function from a mapping of names to values to whether the filter holds. A comparison of a name that the
        mapping lacks, or for which it has None, does not hold. The function raises ``ValueError`` if a value is of
        another type than what it is compared with.

    Raises:
        ValueError: if the text is anything else, or names something else.
    """
    names, alternatives, at = set(names), [[]], 0
    while True:
        found = COMPARISON.match(text, at)
        if found is None:
            raise ValueError(
                f"a filter is made of comparisons such as rows >= 512, joined by and, or; got {line(repr(text))}"
            )
        if found["name"] not in names:
            raise ValueError(f"unknown name {found['name']!r} in a filter; {nearest(found['name'], names)}")
        alternatives[-1].append(found.group("name", "operator", "value"))
        if found["joint"] is None:
            return lambda values: any(all(_holds(values, *c) for c in comparisons) for comparisons in alternatives)
        if found["joint"] == "or":
            alternatives.append([])
        at = found.end()


def _holds(values: Mapping[str, Any], name: str, sign: str, text: str) -> bool:
    value = values.get(name)
    if value is None:
        return False
    try:
        return OPERATORS[sign](value, _as(value, text))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name} is {line(repr(value))}, which {sign} does not compare with {line(text)}") from None


def _as(value: Any, text: str) -> Any:
    """Return what a text means beside ``value``; one of another type raises."""
    text = text.strip()
    if isinstance(value, list):
        if not text.startswith("["):
            raise ValueError("a list is written [3, 5]")
        parts = text[1:-1].split(",") if text[1:-1].strip() else []
        return [_as(value[0] if value else "", part) for part in parts]
    if text.startswith(('"', "'")):
        text = text[1:-1]
        if not isinstance(value, str):
            raise ValueError("a text is no number")
    if isinstance(value, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(value, int | float):
        return int(text) if re.fullmatch(r"[-+]?\d{1,40}", text) else float(text)
    if isinstance(value, str):
        return text
    raise TypeError("such a value is not compared")
