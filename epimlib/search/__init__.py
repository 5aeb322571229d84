"""Which epitome for which layer, and how many bits."""

from epimlib.search.evolve import evolve
from epimlib.search.exact import pareto, solve_exact
from epimlib.search.problem import OBJECTIVES, CannotBeMet, SearchResult, candidates, copied_channels, fit_error

__all__ = [
    "OBJECTIVES",
    "CannotBeMet",
    "SearchResult",
    "candidates",
    "copied_channels",
    "evolve",
    "fit_error",
    "pareto",
    "solve_exact",
]
