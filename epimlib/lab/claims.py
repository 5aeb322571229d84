"""The paper's claims, and those of related ones, against committed run records.

``data/claims.yaml``, and ``data/related.yaml`` for ten other papers, say of every claim what would confront it with our
own numbers: a metric of run records below ``data/results``, and a comparison. The status of a claim is computed from
the records that are there, never typed in::

    reproduced              every check has its records, and holds
    consistent, sign only   the same, of a claim without a number, which asks for a direction and not for a size
    differs                 every check has its records, and one does not hold
    not run                 a check lacks its records
    cannot be checked       no record could decide; the claim says why

A check asks what the claim says, under the claim's own conditions. What was found under other ones, on a smaller data
set for instance, is *related*: it is shown beside the claim and never decides.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epimlib._checks import PROJECT, fields_of, keys, nearest, one_of, positive, read_yaml
from epimlib.lab.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Check", "Claim", "Finding", "Verdict", "evidence", "judge", "read_claims", "scoreboard"]

DATA = PROJECT / "data"

STATUSES = ("reproduced", "consistent, sign only", "differs", "not run", "cannot be checked")
COMPARISONS = {
    "above": lambda ours, value, tolerance: ours > value - tolerance,
    "at least": lambda ours, value, tolerance: ours >= value - tolerance,
    "at most": lambda ours, value, tolerance: ours <= value + tolerance,
    "below": lambda ours, value, tolerance: ours < value + tolerance,
    "equal to": lambda ours, value, tolerance: abs(ours - value) <= tolerance,
}


@dataclass(frozen=True)
class Check:
    """One number of ours and what a claim demands of it."""

    what: str
    """The number, in words with its unit."""
    metric: str
    """Its name in the records; with several records (seeds) it is their mean."""
    records: str
    """Path or glob pattern of the run records, below the folder of the results."""
    configuration: str
    """File that a run which makes them starts from: a notebook, or experiments for ``epim train``."""
    comparison: str
    """One of `COMPARISONS`: what the number must be with respect to ``value``."""
    value: float
    tolerance: float = 0.0
    """Absolute; it widens what passes."""
    minus: str = ""
    """Pattern of further records, whose mean of the same metric is subtracted; both means are over the seeds that
    both have in the same folder."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters with which every one of ``records`` must have been run."""

    def __post_init__(self) -> None:
        one_of("comparison of a check", self.comparison, COMPARISONS)
        for name in ("value", "tolerance"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"{name} of a check must be a number, got {getattr(self, name)!r}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance of a check must be zero or more, got {self.tolerance}")
        if not isinstance(self.parameters, Mapping):
            raise ValueError(f"parameters of a check must be a mapping, got {self.parameters!r}")
        _texts("a check", self, ("what", "metric", "records", "configuration"))
        for name in ("records", "minus", "configuration"):
            _below(f"{name} of a check", getattr(self, name))

    @property
    def demand(self) -> str:
        """What the number must be, in words."""
        within = f", within {self.tolerance:g}" if self.tolerance else ""
        return f"{self.comparison} {self.value:g}{within}"

    @property
    def command(self) -> str:
        """The command that makes the records; those of a notebook are named after the profile."""
        path = Path(self.configuration)
        if path.suffix == ".ipynb":
            return f"epim run {path.stem} --profile {Path(self.records).stem}"
        return f"epim train {path} --records data/results"

    def find(self, folder: Path) -> "Finding":
        """Return what the records in a folder say.

        Raises:
            ValueError: if a record is no run record, was run with other parameters or lacks the metric, or if two
                records of one side have the same folder and seed.
        """
        parts = [self._numbers(folder, self.records, self.parameters)]
        if self.minus:
            parts.append(self._numbers(folder, self.minus, {}))
        for pattern, part in zip((self.records, self.minus), parts, strict=False):
            if not part:
                return Finding(self, None, (), f"There is no record `{pattern}`.")
        if self.minus:
            shared = set.intersection(*({run for run, _ in part.values()} for part in parts))
            parts = [{file: own for file, own in part.items() if own[0] in shared} for part in parts]
            if not shared:
                return Finding(self, None, (), f"`{self.records}` and `{self.minus}` share no seed.")
        mean, *subtracted = (statistics.fmean(value for _, value in part.values()) for part in parts)
        return Finding(self, mean - sum(subtracted), tuple(file for part in parts for file in part))

    def _numbers(self, folder: Path, pattern: str, parameters: Mapping[str, Any]) -> dict[str, tuple[Any, float]]:
        """Return run (folder and seed, which may be None) and metric of every record, by file."""
        numbers, files = {}, {}
        for path in sorted(folder.glob(pattern)):
            record = RunRecord.load(path)
            for name, needed in parameters.items():
                if record.parameters.get(name) != needed:
                    given = record.parameters.get(name)
                    raise ValueError(f"{path} must have been run with {name} = {needed!r}, and was with {given!r}")
            value = record.metrics.get(self.metric)
            if not _is_number(value):
                raise ValueError(f"{path} has no number {self.metric!r}; {nearest(self.metric, record.metrics)}")
            run = path.parent, record.parameters.get("seed")
            if run[1] is not None and run in files:
                raise ValueError(f"{pattern} must match one record of a seed, and matches {files[run]} and {path}")
            files[run] = path
            numbers[path.relative_to(folder).as_posix()] = run, value
        return numbers


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and what would confirm or refute it.

    Raises:
        ValueError: if a field has a value that is not allowed, or a claim without checks does not say why.
    """

    name: str
    statement: int
    """Its number in the list of the abstract's statements on the page of assumptions; in ``data/related.yaml``, which
    is about several papers, the number of the system on its page."""
    where: str
    """Place in the paper."""
    text: str
    wording: str
    """Whether ``text`` is the paper's (``"verbatim"``) or a paraphrase (``"ours"``)."""
    value: float | None
    """The paper's number; None where it is not known, or the statement has none."""
    unit: str
    value_from: str
    """``"verbatim"``, ``"derived"`` by us, or ``"unknown"``."""
    page: str
    """The page of the book that treats it, without a suffix: ``"notebooks/13_headline"``."""
    checks: tuple[Check, ...]
    related: tuple[Check, ...] = ()
    """What was found under other conditions than the claim's; it decides nothing."""
    why: Mapping[str, str] = field(default_factory=dict)
    """For a status what is to be said about it."""
    cite: str = "epim"
    """The paper's key in the bibliography."""

    def __post_init__(self) -> None:
        one_of(f"wording of claim {self.name!r}", self.wording, ["verbatim", "ours"])
        one_of(f"value_from of claim {self.name!r}", self.value_from, ["verbatim", "derived", "unknown"])
        _texts(f"claim {self.name!r}", self, ("name", "where", "text", "page", "cite"))
        _below(f"page of claim {self.name!r}", self.page)
        if not isinstance(self.unit, str):
            raise ValueError(f"unit of claim {self.name!r} must be a text, got {self.unit!r}")
        for status, sentence in keys(f"why of claim {self.name!r}", self.why, [], STATUSES).items():
            if not isinstance(sentence, str):
                raise ValueError(f"why {status!r} of claim {self.name!r} must be a text, got {sentence!r}")
        positive(f"statement of claim {self.name!r}", self.statement)
        if not (self.value is None if self.value_from == "unknown" else _is_number(self.value)):
            raise ValueError(
                f"value of claim {self.name!r} must be {'null' if self.value_from == 'unknown' else 'a number'} "
                f"where it is {self.value_from!r}, got {self.value!r}"
            )
        if bool(self.checks) == ("cannot be checked" in self.why):
            raise ValueError(f"claim {self.name!r} must have either checks or a reason why it cannot be checked")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Claim":
        """Return a claim as it is written in YAML; unknown or missing keys raise ``ValueError``."""
        what = f"claim {data['name']!r}" if isinstance(data, Mapping) and "name" in data else "a claim"
        parts = {part: _checks(what, part, data) for part in ("checks", "related")}
        return cls(**{**fields_of(what, data, cls), **parts})


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _texts(what: str, value: Any, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(getattr(value, name), str) or not getattr(value, name):
            raise ValueError(f"{name} of {what} must be a text, got {getattr(value, name)!r}")


def _below(what: str, path: Any) -> None:
    """Raise if a path or pattern could lead out of the folder that it is meant to be below."""
    parts = path.split("/") if isinstance(path, str) and path.isprintable() else [""]
    if path != "" and any(part in ("", ".", "..", "**") or ":" in part or "\\" in part for part in parts):
        raise ValueError(f"{what} must be a path below its folder, parts separated by '/', got {path!r}")


def _checks(what: str, part: str, data: Any) -> tuple[Check, ...]:
    entries = data.get(part, []) if isinstance(data, Mapping) else []
    if not isinstance(entries, list):
        raise ValueError(f"{part} of {what} must be a list, got {entries!r}")
    return tuple(Check(**fields_of(f"{part} of {what}", entry, Check)) for entry in entries)


def read_claims(path: str | Path | None = None) -> tuple[Claim, ...]:
    """Return the claims of a YAML file; None is ``data/claims.yaml`` of the clone.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not YAML, a key is unknown or missing, a value is not allowed, or two claims have one name.
    """
    path = DATA / "claims.yaml" if path is None else Path(path)
    data = read_yaml(path, "file of claims")
    entries = keys("a file of claims", data, ["claims"])["claims"]
    if not isinstance(entries, list):
        raise ValueError(f"claims of {path} must be a list, got {entries!r}")
    claims = tuple(Claim.from_dict(entry) for entry in entries)
    names = [claim.name for claim in claims]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two claims have the name {name!r}")
    return claims


@dataclass(frozen=True)
class Finding:
    """What records say to one check."""

    check: Check
    value: float | None
    """Our number; None without records."""
    records: tuple[str, ...]
    """The files that it was computed from, below the folder of the results."""
    missing: str = ""
    """What is missing, where there is no number."""

    @property
    def holds(self) -> bool | None:
        """Whether the number is what the check demands; None without records."""
        if self.value is None:
            return None
        return bool(COMPARISONS[self.check.comparison](self.value, self.check.value, self.check.tolerance))

    def __str__(self) -> str:
        return "no record" if self.value is None else f"{self.value:.4g}"


@dataclass(frozen=True)
class Verdict:
    """A claim and what the records say to it."""

    claim: Claim
    findings: tuple[Finding, ...]
    """For each of its checks."""
    related: tuple[Finding, ...]

    @cached_property
    def status(self) -> str:
        """One of `STATUSES`."""
        holds = [finding.holds for finding in self.findings]
        if not holds:
            return "cannot be checked"
        if None in holds:
            return "not run"
        if not all(holds):
            return "differs"
        return "consistent, sign only" if self.claim.value is None else "reproduced"

    @property
    def why(self) -> str:
        """Why the status is what it is."""
        sentences = []
        if self.status == "differs":
            sentences = [f"{f.check.what} is {f}, not {f.check.demand}." for f in self.findings if not f.holds]
        if self.status == "not run":
            sentences = [f.missing for f in self.findings if f.holds is None]
        return " ".join(dict.fromkeys([*sentences, self.claim.why.get(self.status, "")])).strip()


def judge(claims: Iterable[Claim], folder: str | Path | None = None) -> list[Verdict]:
    """Confront claims with the run records in a folder; a folder that does not exist holds none.

    Args:
        claims: of `read_claims`.
        folder: of records; None is ``data/results`` of the clone.

    Raises:
        ValueError: if a record that a check reads is malformed, was run with other parameters than the check needs, or
            lacks the metric.
    """
    folder = DATA / "results" if folder is None else Path(folder)
    return [
        Verdict(claim, *(tuple(c.find(folder) for c in part) for part in (claim.checks, claim.related)))
        for claim in claims
    ]


def scoreboard(verdicts: Iterable[Verdict]) -> "pd.DataFrame":
    """Return one row per claim: what the paper says, what we find, the status and why."""
    import pandas as pd

    rows = [
        {
            "claim": v.claim.name,
            "statement": v.claim.statement,
            "the paper": "" if v.claim.value is None else f"{v.claim.value:g} {v.claim.unit}".strip(),
            "value from": v.claim.value_from,
            "ours": ", ".join(dict.fromkeys(map(str, v.findings))),
            "status": v.status,
            "why": v.why,
        }
        for v in verdicts
    ]
    return pd.DataFrame(rows).set_index("claim")


def evidence(verdicts: Iterable[Verdict]) -> "pd.DataFrame":
    """Return one row per number: what it is, must be and is, and the page, records and configuration behind it."""
    import pandas as pd

    rows = [
        {
            "claim": v.claim.name,
            "decides": decides,
            "number": finding.check.what,
            "demanded": finding.check.demand,
            "ours": str(finding),
            "holds": finding.holds,
            "page": v.claim.page,
            "records": finding.records,
            "configuration": finding.check.configuration,
        }
        for v in verdicts
        for decides, findings in ((True, v.findings), (False, v.related))
        for finding in findings
    ]
    return pd.DataFrame(rows).set_index("claim")
