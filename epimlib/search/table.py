"""The additive costs of very many designs: what each candidate of each layer costs, tabulated once."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from epimlib._checks import keys, positive
from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec
from epimlib.epitome.workload import Workload, check_workload
from epimlib.pim.cost import CostModel
from epimlib.pim.hardware import Hardware, check_hardware
from epimlib.pim.mapping import layer_bits


class Candidate(NamedTuple):
    """One way to realise a layer: an epitome, or None for dense, and the bits of its weights."""

    spec: EpitomeSpec | None
    bits: int


class Costs(NamedTuple):
    """Additive costs of many designs, arrays of shape ``(designs,)``."""

    latency: np.ndarray
    """Layer after layer [s]."""
    energy: np.ndarray
    """[J]"""
    area: np.ndarray
    """[m^2]"""
    crossbars: np.ndarray
    """int64"""


@dataclasses.dataclass(frozen=True, eq=False)
class CostTable:
    """What every candidate of every layer costs; a design is one candidate per layer.

    Layer-pipelined latency does not add up over layers, so it is not among these costs: use `evaluate`.
    """

    layers: tuple[str, ...]
    """Weighted layers, in the order of the workload."""
    candidates: tuple[tuple[Candidate, ...], ...]
    """For every layer."""
    values: tuple[np.ndarray, ...]
    """For every layer latency [s], energy [J], area [m^2] and crossbars, in an array ``(candidates, 4)``."""
    rest: np.ndarray
    """The same four of all layers without a weight, ``(4,)``."""

    @cached_property
    def _flat(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = [len(values) for values in self.values]
        return np.concatenate(self.values), np.cumsum([0, *sizes[:-1]])

    def evaluate(self, designs: np.ndarray) -> Costs:
        """Return the costs of designs.

        Args:
            designs: int array ``(designs, layers)``, for each layer the index of a candidate.

        Raises:
            TypeError: if the array is not of integers.
            ValueError: if its shape is wrong, or an index is that of no candidate.
        """
        designs = np.asarray(designs)
        if designs.ndim != 2 or designs.shape[1] != len(self.layers):
            raise ValueError(f"designs must have the shape (designs, {len(self.layers)}), got {designs.shape}")
        if not np.issubdtype(designs.dtype, np.integer):
            raise TypeError(f"designs must be an array of integers, got {designs.dtype}")
        values, first = self._flat
        if len(designs):
            for name, own, low, high in zip(
                self.layers, self.values, designs.min(axis=0), designs.max(axis=0), strict=True
            ):
                if low < 0 or high >= len(own):
                    wrong = low if low < 0 else high
                    raise ValueError(f"designs must name candidates 0 to {len(own) - 1} of layer {name!r}, got {wrong}")
        total = np.empty((len(designs), values.shape[1]))
        for start in range(0, len(designs), 2048):  # a part that stays in the cache
            part = designs[start : start + 2048] + first
            np.einsum("dlc->dc", values.take(part, axis=0), out=total[start : start + 2048])
        total += self.rest
        return Costs(total[:, 0], total[:, 1], total[:, 2], np.rint(total[:, 3]).astype(np.int64))

    def design(self, indices: Sequence[int]) -> tuple[Design, dict[str, int]]:
        """Return the epitomes and the bits that one row of indices stands for."""
        chosen = [options[index] for options, index in zip(self.candidates, indices, strict=True)]
        specs = {name: c.spec for name, c in zip(self.layers, chosen, strict=True) if c.spec is not None}
        return Design(specs), {name: c.bits for name, c in zip(self.layers, chosen, strict=True)}


def tabulate(
    workload: Workload,
    hardware: Hardware,
    candidates: Mapping[str, Sequence[Candidate]],
    activation_bits: int = 9,
) -> CostTable:
    """Return the costs of all candidates.

    Args:
        workload: the network.
        hardware: an accelerator with rules ``"events"``; those of MNSIM place all layers together, so that its costs
            do not add up.
        candidates: for every weighted layer the ways to realise it, ``(epitome or None, bits)``.
        activation_bits: of inputs and outputs of every layer.

    Raises:
        ValueError: if a layer has no candidate, or one does not fit it.
    """
    if check_hardware(hardware).rules != "events":
        raise ValueError(f"rules must be 'events' to tabulate costs, which add up over layers, got {hardware.rules!r}")
    model = CostModel(hardware, positive("activation_bits", activation_bits))
    names = [layer.name for layer in check_workload(workload).weighted]
    keys("candidates", candidates, names)
    values, rest, options = [], np.zeros(4), []
    for layer in workload.layers:
        if not layer.weighted:
            rest += model.layer(layer, None, None).sums
            continue
        own = tuple(Candidate(*candidate) for candidate in candidates[layer.name])
        if not own:
            raise ValueError(f"candidates of layer {layer.name!r} must not be empty")
        for spec in {candidate.spec for candidate in own} - {None}:
            Design({layer.name: spec}).check(workload)
        options.append(own)
        values.append(np.array([model.layer(layer, spec, bits).sums for spec, bits in own]))
    return CostTable(tuple(names), tuple(options), tuple(values), rest)


def evaluate_many(
    workload: Workload,
    hardware: Hardware,
    designs: Iterable[Mapping[str, EpitomeSpec]] | np.ndarray,
    bits: int | Mapping[str, int] = 9,
    activation_bits: int = 9,
    candidates: Mapping[str, Sequence[Candidate]] | None = None,
) -> Costs:
    """Return the additive costs of many designs: as `evaluate` gives them layer after layer.

    Args:
        workload: the network.
        hardware: an accelerator with rules ``"events"``.
        designs: epitomes by layer name, for each design; or, with ``candidates``, an int array ``(designs, layers)``
            of indices into them.
        bits: of the weights, as in `evaluate`; not read with ``candidates``, which have bits of their own.
        activation_bits: of inputs and outputs of every layer.
        candidates: as in `tabulate`, which a search calls once and asks many times.
    """
    if candidates is not None:
        return tabulate(workload, hardware, candidates, activation_bits).evaluate(designs)
    designs = [Design(design).check(workload) for design in designs]
    weights = layer_bits(workload, bits)
    options = {
        name: dict.fromkeys(Candidate(design.get(name), weight) for design in designs or [Design()])
        for name, weight in weights.items()
    }
    index = {name: {option: number for number, option in enumerate(own)} for name, own in options.items()}
    rows = [[index[name][Candidate(d.get(name), weights[name])] for name in weights] for d in designs]
    table = tabulate(workload, hardware, {name: list(own) for name, own in options.items()}, activation_bits)
    return table.evaluate(np.array(rows, dtype=np.int64).reshape(len(designs), len(weights)))
