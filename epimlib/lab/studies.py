"""Studies: the committed records of runs that belong together, as tables."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from epimlib import _checks
from epimlib._checks import PROJECT
from epimlib.lab.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd


def results(study: str, folder: str | Path | None = None) -> "pd.DataFrame":
    """Return the committed records of a study, one row each.

    Args:
        study: a folder of records, ``cifar10`` for instance.
        folder: that holds the studies; None is ``data/results`` of the clone.

    Returns:
        Columns ``run`` and ``seed``, from the record's file name, ``<run>-s<seed>.json``, its metrics, and ``lost``,
        how many points of accuracy it lies below the run ``dense`` of the same seed (nan where that has not ended);
        sorted by run and seed. Without rows if there is no record yet, and without the last column if no record has an
        ``accuracy``.

    Raises:
        ValueError: if ``study`` is no name, a file is no record, or its name is another one.
    """
    import pandas as pd

    folder = Path(folder) if folder is not None else PROJECT / "data" / "results"
    rows = []
    for path in sorted((folder / _checks.name("study", study)).glob("*.json")):
        parts = re.fullmatch(r"(.+)-s(\d{1,10})", path.stem)
        if parts is None:
            raise ValueError(f"the file of a record must be named <run>-s<seed>.json, got {path.name!r}")
        rows.append({"run": parts[1], "seed": int(parts[2]), **RunRecord.load(path).metrics})
    if not rows:
        return pd.DataFrame(columns=["run", "seed"])
    table = pd.DataFrame(rows)
    if "accuracy" not in table:
        return table
    dense = table[table["run"] == "dense"].set_index("seed")["accuracy"]
    return table.assign(lost=table["seed"].map(dense) - table["accuracy"])


def over_seeds(records: "pd.DataFrame", by: list[str]) -> "pd.DataFrame":
    """Return one row for all seeds of a run, in the order in which the runs first appear.

    Args:
        records: rows of `results`, perhaps with more columns.
        by: columns that tell runs apart, ``["run"]`` within a study.

    Returns:
        ``seeds``, their number; the means of ``accuracy``, ``lost`` (nan where a seed has no dense run), ``crossbars``
        and ``factor``; and ``spread``, the largest accuracy of a seed minus the smallest [points], nan for a single
        seed.
    """
    groups = records.groupby(by, sort=False)
    table = groups[["accuracy", "lost", "crossbars", "factor"]].mean()
    table["lost"] = table["lost"].where(groups["lost"].count() == groups["accuracy"].count())
    seeds, spread = groups["accuracy"].count(), groups["accuracy"].max() - groups["accuracy"].min()
    return table.assign(seeds=seeds, spread=spread.where(seeds > 1))[
        ["seeds", "accuracy", "spread", "lost", "crossbars", "factor"]
    ]
