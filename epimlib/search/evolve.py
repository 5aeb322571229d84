"""Evolutionary search, the paper's way as far as its abstract tells; operators and settings are our reconstruction."""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epimlib._checks import keys, positive, read_json, write_json
from epimlib.search.problem import Problem, SearchResult, from_json, to_json
from epimlib.search.table import CostTable


def evolve(
    table: CostTable,
    objective: str = "latency",
    *,
    budget: int,
    proxy: Mapping[str, Sequence[float]] | None = None,
    limit: float | None = None,
    population: int = 1024,
    generations: int = 500,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> SearchResult:
    """Return the best design that an evolution finds under a budget of crossbars.

    Every generation keeps the best eighth and fills up with children: parents win tournaments of two, every gene comes
    from either parent, about one gene in a child mutates (to a neighbour in the order of crossbars, or to any), and a
    child over a limit is repaired by moving layers to smaller candidates, those that lose least per crossbar first.
    With two limits a repair can fail; such a child ranks behind all that meet both.

    Args:
        table, objective, budget, proxy, limit: as in `solve_exact`.
        population: designs of a generation.
        generations: how many.
        seed: of all random choices; equal arguments give equal results.
        checkpoint: a file that keeps the state every 50 generations; a search that finds its own file there goes on
            from it, with the same result as if it had not been interrupted.
        progress: whether to show a progress bar.

    Raises:
        CannotBeMet: a ValueError, if the smallest candidates exceed the budget or the limit.
        ValueError: if an argument is not allowed, or the checkpoint belongs to another search or has more generations.
        RuntimeError: if no design of the last generation meets both limits.
    """
    from tqdm import tqdm

    population = positive("population", population, 8)
    positive("generations", generations)
    seed = positive("seed", seed, 0)
    problem = Problem(table, objective, budget, proxy, limit)
    search = _Evolution(problem, population, seed)
    identity = _identity(problem, limit, population, seed)
    if checkpoint is not None and Path(checkpoint).is_file():
        search.restore(keys("the checkpoint", read_json(checkpoint, "checkpoint"), ["search", "state"]), identity)
        if len(search.history) > generations:
            raise ValueError(
                f"generations must be at least {len(search.history)}, those of the checkpoint, got {generations}"
            )
    with tqdm(total=generations, initial=len(search.history), disable=not progress, unit="generation") as bar:
        while len(search.history) < generations:
            search.step()
            bar.update()
            bar.set_postfix_str(f"best {search.history[-1]:.6g}, {search.evaluations:,} designs", refresh=False)
            if checkpoint is not None and (len(search.history) % 50 == 0 or len(search.history) == generations):
                write_json(checkpoint, {"search": identity, "state": search.state()})
    if math.isinf(search.scores[0]):
        raise RuntimeError(f"the evolution found no design within budget {budget} and limit {limit}; allow more")
    return problem.result(
        search.best,
        "evolution",
        evaluations=search.evaluations,
        seed=seed,
        history=tuple(search.history),
        message=f"{len(search.history)} generations of {population} designs.",
    )


def _identity(problem: Problem, limit: float | None, population: int, seed: int) -> dict[str, Any]:
    """Return what a checkpoint says of its search, in plain data."""
    layers = repr([(name, len(kept)) for name, kept in zip(problem.table.layers, problem.kept, strict=True)])
    costs = [values.tobytes() for own in problem.costs for values in own.values()]
    return {
        "objective": problem.objective,
        "budget": problem.budget,
        "population": population,
        "seed": seed,
        "limit": None if limit is None else str(float(limit)),  # infinity is no number of JSON
        "table": zlib.crc32(b"".join([layers.encode(), problem.table.rest.tobytes(), *costs])),
    }


class _Evolution:
    """Population, random state and history.

    A design is a row of places of candidates in the columns of costs, where every layer has its own, by crossbars::

        layer            conv1         conv2
        crossbars     1    4    9      2    3
        place         0    1    2      3    4     # the design [1, 3] takes the second of conv1, the first of conv2
    """

    def __init__(self, problem: Problem, population: int, seed: int) -> None:
        self.problem, self.population = problem, population
        self.rng = np.random.default_rng(seed)
        self.order = [np.lexsort((own["latency"], own["crossbars"])) for own in problem.costs]
        self.sizes = np.array([len(order) for order in self.order])
        self.first = np.cumsum([0, *self.sizes[:-1]])
        self.costs = {
            column: np.concatenate([own[column][order] for own, order in zip(problem.costs, self.order, strict=True)])
            for column in problem.least
        }
        # What is zero everywhere counts nothing.
        self.scale = {column: np.abs(values).mean() + 1e-300 for column, values in self.costs.items()}
        self.moves = {column: self._moves(column) for column in problem.limits}
        self.history: list[float] = []
        self.evaluations = 0
        layers = np.tile(np.arange(len(self.sizes)), (population, 1))
        self.places, self.scores = self._survivors(self._repair(self._any(layers)), population)

    @property
    def best(self) -> list[int]:
        """The best design, as genes of the problem."""
        return [int(order[rank]) for order, rank in zip(self.order, self.places[0] - self.first, strict=True)]

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on as if nothing had happened."""
        return {
            "history": to_json(self.history),
            "evaluations": self.evaluations,
            "places": self.places.tolist(),
            "random": self.rng.bit_generator.state,
        }

    def restore(self, data: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same search.

        Raises:
            ValueError: if it is of another search, or no checkpoint at all.
        """
        keys("search of the checkpoint", data["search"], identity)
        differs = [name for name, value in identity.items() if data["search"].get(name) != value]
        if differs:
            raise ValueError(f"the checkpoint belongs to another search: {', '.join(differs)} differs")
        state = keys("the checkpoint", data["state"], ["history", "evaluations", "places", "random"])
        try:
            places = self._checked(np.array(state["places"]))
            history = [float(value) for value in from_json(state["history"])]
            self.evaluations = positive("evaluations", state["evaluations"])
            self.rng.bit_generator.state = state["random"]
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint is damaged: {error}") from error
        self.history = history
        self.places, self.scores = self._survivors(places, 0)

    def _checked(self, places: np.ndarray) -> np.ndarray:
        whole = places.dtype.kind == "i" and places.shape == self.places.shape
        if not whole or (places < self.first).any() or (places >= self.first + self.sizes).any():
            raise ValueError(f"places must be candidates of {self.places.shape} genes")
        return places

    def step(self) -> None:
        """Add one generation: the best eighth, and children of parents that won tournaments of two."""
        elite = self.population // 8
        count = self.population - elite
        rivals = self.rng.integers(0, self.population, (2, 2, count))
        mothers, fathers = self.places[rivals.min(axis=1)]  # ranked best first: the smaller number wins
        children = np.where(self.rng.integers(0, 2, mothers.shape, dtype=bool), mothers, fathers)
        self._mutate(children.reshape(-1), self.rng.integers(0, children.size, count))
        children = np.concatenate([self.places[:elite], self._repair(children)])
        self.places, self.scores = self._survivors(children, count)
        self.history.append(float(self.scores[0]))

    def _mutate(self, genes: np.ndarray, chosen: np.ndarray) -> None:
        """Move the chosen ones of a flat array of genes to a neighbour, or to any candidate of their layer."""
        layers = chosen % len(self.sizes)
        near = genes[chosen] + self.rng.choice([-1, 1], chosen.shape)
        near = np.clip(near, self.first[layers], self.first[layers] + self.sizes[layers] - 1)
        genes[chosen] = np.where(self.rng.random(chosen.shape) < 0.7, near, self._any(layers))

    def _any(self, layers: np.ndarray) -> np.ndarray:
        """Return for each of an array of layers a gene, all of its candidates equally likely."""
        return self.first[layers] + (self.rng.random(layers.shape) * self.sizes[layers]).astype(np.int64)

    def _survivors(self, places: np.ndarray, new: int) -> tuple[np.ndarray, np.ndarray]:
        """Return designs, of which so many are new, and their scores, best first."""
        self.evaluations += new
        rest = self.problem.rest
        scores = math.prod(self._sum(places, column) + rest[column] for column in self.problem.columns)
        # Two limits can be at odds. Designs over one come last, those that exceed it least before others.
        over = sum(np.maximum(self._excess(places, c), 0) / self.scale[c] for c in self.problem.limits)
        scores[over > 0] = np.inf
        best = np.lexsort((scores, over))
        return places[best], scores[best]

    def _repair(self, places: np.ndarray) -> np.ndarray:
        """Move layers of designs over a limit to smaller candidates until they meet it or none is smaller."""
        for column in self.problem.limits:
            over = np.flatnonzero(self._excess(places, column) > 0)
            while len(over):
                before = places[over]
                places[over] = self._shrink(places[over], column)
                moved = (places[over] != before).any(axis=1)
                over = over[moved & (self._excess(places[over], column) > 0)]
        return places

    def _sum(self, places: np.ndarray, column: str) -> np.ndarray:
        return self.costs[column].take(places).sum(axis=1)

    def _excess(self, places: np.ndarray, column: str) -> np.ndarray:
        """By how much designs exceed a limit."""
        return self._sum(places, column) - self.problem.limits[column]

    def _shrink(self, places: np.ndarray, column: str) -> np.ndarray:
        """One move for as many layers of each design as it is over the limit, the cheapest moves first."""
        target, saved, price = (move[places] for move in self.moves[column])
        order = np.argsort(price * self.rng.lognormal(0, 0.5, price.shape), axis=1)
        saved = np.take_along_axis(saved, order, axis=1)
        before = np.cumsum(saved, axis=1) - saved
        needed = before < self._excess(places, column)[:, None]
        moved = np.where(needed, np.take_along_axis(target, order, axis=1), np.take_along_axis(places, order, axis=1))
        np.put_along_axis(places, order, moved, axis=1)
        return places

    def _moves(self, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every candidate the smaller one that loses least per unit saved: its place, the saving, the price.

        A candidate without a smaller one keeps its place, saves nothing and has an infinite price.
        """
        goal = sum(self.costs[c] / self.scale[c] for c in self.costs if c != column)
        moves = []
        for first, size in zip(self.first, self.sizes, strict=True):
            here, own = np.arange(size), slice(first, first + size)
            saved = self.costs[column][own, None] - self.costs[column][own]
            lost = goal[own] - goal[own, None]
            price = np.divide(lost, saved, out=np.full(saved.shape, np.inf), where=saved > 0)
            best = price.argmin(axis=1)
            best = np.where(np.isinf(price[here, best]), here, best)
            moves.append((first + best, saved[here, best], price[here, best]))
        return tuple(np.concatenate(part) for part in zip(*moves, strict=True))
