"""Energy of a layer on a digital accelerator with a hierarchy of memories, and what packing narrow words saves.

A layer is a nest of seven loops, cut into levels, one for each memory. Each memory holds a *tile* of the three tensors;
how often tiles are brought in follows from the loops above. Numbers narrower than a memory's word are packed, as many
as fit whole. Source: the rules of Timeloop with the quantization extension of Klhufek et al. (2024), whose public
example outputs the tests reproduce to the printed digit.

    dimensions    output channels M, input channels C, kernel R x S, output P x Q
    W is indexed by C M R S, I by C P Q R S, O by M P Q
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from epimlib._checks import keys, positive
from epimlib.epitome.workload import Layer

INDEXED = {"W": "CMRS", "I": "CPQRS", "O": "MPQ"}


def packed(numbers: int, word: int, bits: int) -> int:
    """Return the words that hold numbers of ``bits`` bits, whole numbers only.

    Example: 400 numbers of 5 bits in words of 36 bits are seven in a word: 58 words.

    Raises:
        TypeError, ValueError: if a size is not a positive integer or a number is wider than a word.
    """
    positive("bits", bits, maximum=positive("word", word))
    return -(-numbers // (word // bits))


@dataclass(frozen=True)
class Level:
    """A memory.

    Attributes:
        name: of the memory.
        read: energy of reading a vector [J].
        write: energy of writing a vector [J].
        word: bits of a word.
        vector: words that one access moves.
        capacity: words that it holds; None: enough.
    """

    name: str
    read: float
    write: float
    word: int = 8
    vector: int = 1
    capacity: int | None = None


@dataclass(frozen=True)
class Nest:
    """A layer and its loops, cut into levels.

    Attributes:
        layer: a convolution or linear layer; dense or depthwise.
        levels: from the outermost memory to the innermost.
        loops: for each level its loops from outside to inside, ``(("M", 96), ("Q", 5))``.
        mac: energy of a multiplication and addition [J].

    Raises:
        ValueError: if levels and loops do not match, or the loops are not those of the layer.
    """

    layer: Layer
    levels: tuple[Level, ...]
    loops: tuple[tuple[tuple[str, int], ...], ...]
    mac: float

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.loops):
            raise ValueError(f"loops must be given for each of {len(self.levels)} levels, got {len(self.loops)}")
        sizes = dimensions(self.layer)
        found = _extents(loop for loops in self.loops for loop in loops)
        if found != sizes:
            raise ValueError(f"loops of {self.layer.name} must multiply to {sizes}, got {found}")

    @property
    def macs(self) -> int:
        """Return the multiplications of the layer."""
        return math.prod(dimensions(self.layer).values())

    def tile(self, tensor: str, level: int) -> int:
        """Return the numbers of a tensor (W, I or O) that a level holds at a time."""
        return self._size(tensor, _extents(loop for loops in self.loops[level:] for loop in loops))

    def fills(self, tensor: str, level: int) -> int:
        """Return the numbers that are brought into a level, of outputs those that leave it.

        It is the tile times all loops above it, but for the innermost of these that do not index the tensor: they find
        the tile where it is. Of inputs, a window that moves by one loop brings only new rows or columns.
        """
        above = [loop for loops in self.loops[:level] for loop in loops if loop[1] > 1]
        indexed = self._indexed(tensor)
        while above and above[-1][0] not in indexed:
            above.pop()
        extents = _extents(loop for loops in self.loops[level:] for loop in loops)
        if tensor == "I" and above and above[-1][0] in "PQRS":
            name, count = above.pop()
            extents[name] *= count
        return self._size(tensor, extents) * math.prod(count for _, count in above)

    def fits(self, bits: Mapping[str, int]) -> bool:
        """Return whether all tiles fit the memories; ``bits`` says how wide W, I and O are."""
        return all(
            level.capacity is None
            or sum(packed(self.tile(t, i), level.word, bits[t]) for t in INDEXED) <= level.capacity
            for i, level in enumerate(self.levels)
        )

    def energy(self, bits: Mapping[str, int]) -> dict[tuple[str, str], float]:
        """Return the energy [J] by memory and tensor, ``("MAC", "")`` for the arithmetic.

        Raises:
            ValueError: if ``bits`` does not name W, I and O, or a number is wider than a word.
        """
        keys("bits", bits, INDEXED)
        innermost = len(self.levels) - 1
        outputs = self._size("O", dimensions(self.layer))
        found = {("MAC", ""): self.macs * self.mac}
        for i, level in enumerate(self.levels):
            for tensor in INDEXED:
                own = self.fills(tensor, i) if i else 0
                below = self.macs if i == innermost else self.fills(tensor, i + 1)
                reads, writes = (below,), (own,)
                if tensor == "O":  # a first partial sum is not read; all others come back
                    reads, writes = (below - outputs,), (below, own)
                energies = [(level.read, count) for count in reads] + [(level.write, count) for count in writes]
                found[level.name, tensor] = sum(
                    energy * -(-packed(count, level.word, bits[tensor]) // level.vector) for energy, count in energies
                )
        return found

    def _indexed(self, tensor: str) -> str:
        """Return the dimensions of a tensor; a depthwise layer reads one input channel for each output channel."""
        return INDEXED[tensor].replace("C", "M") if tensor == "I" and self.layer.groups > 1 else INDEXED[tensor]

    def _size(self, tensor: str, extents: Mapping[str, int]) -> int:
        if tensor != "I":
            return math.prod(extents[name] for name in INDEXED[tensor])
        high, wide = (
            (extents[out] - 1) * stride + extents[kernel]
            for out, kernel, stride in zip("PQ", "RS", self.layer.stride, strict=True)
        )
        return extents["M" if self.layer.groups > 1 else "C"] * high * wide


def dimensions(layer: Layer) -> dict[str, int]:
    """Return the sizes of the seven loops but the batch.

    Raises:
        ValueError: if the layer has groups of more than one input channel.
    """
    out, inp, kernel_h, kernel_w = layer.weight_shape
    if layer.groups > 1 and inp > 1:
        raise ValueError(f"{layer.name} must be dense or depthwise, got {layer.groups} groups of {inp} input channels")
    p, q = layer.out_size
    return {"M": out, "C": inp, "R": kernel_h, "S": kernel_w, "P": p, "Q": q}


def _extents(loops: Iterable[tuple[str, int]]) -> dict[str, int]:
    found = dict.fromkeys("MCRSPQ", 1)
    for name, count in loops:
        found[name] *= count
    return found


def draw(
    layer: Layer, levels: tuple[Level, ...], mac: float, rng: np.random.Generator, bits: Mapping[str, int], tries: int
) -> list[Nest]:
    """Return those of ``tries`` random nests that fit: prime factors of loops at random levels, in random order."""
    found = []
    for _ in range(tries):
        cut = [dict.fromkeys(rng.permutation(list("MCRSPQ")).tolist(), 1) for _ in levels]
        for name, size in dimensions(layer).items():
            for prime in _primes(size):
                cut[rng.integers(len(levels))][name] *= prime
        nest = Nest(layer, levels, tuple(tuple(loops.items()) for loops in cut), mac)
        found += [nest] if nest.fits(bits) else []
    return found


def _primes(number: int) -> list[int]:
    """Return the prime factors, 12 -> [2, 2, 3]."""
    found, prime = [], 2
    while number > 1:
        while number % prime == 0:
            found.append(prime)
            number //= prime
        prime += 1
    return found
