"""What notebooks and the book are made with."""

from epimlib.lab.notebooks import report
from epimlib.lab.parameters import check, refusing, require
from epimlib.lab.studies import over_seeds, results

__all__ = ["check", "over_seeds", "refusing", "report", "require", "results"]
