"""Spiking neurons in integers, driven by a clock: what fits an FPGA.

After Spiker (Carpegna, Savino and Di Carlo, 2022), read from its public repository: a shift register draws one
threshold for all pixels in each step, membranes leak by a shift, and a machine spends a cycle on each step and one on
each input or neuron of the steps in which something happens. Its weights, which are learned by another rule, are not
taken over. Where the source leaves the order of operations open, and what happens to a membrane that its word cannot
hold (here it stays at the end of the range), the choice is ours.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from epimlib._checks import positive

SEED = 5
"""State that the shift register starts from."""


def lfsr(steps: int, seed: int = SEED) -> np.ndarray:
    """Return the first states of a 16-bit shift register, the seed first; shape (steps,), after 65,535 they repeat.

    The register moves right; its new top bit is the exclusive or of bits 0, 1, 3 and 12.

    Raises:
        TypeError, ValueError: if there is no step, or the seed is not from 1 to 65,535 (0 would stay 0).
    """
    state, states = positive("seed", seed, maximum=(1 << 16) - 1), []
    for _ in range(positive("steps", steps)):
        states.append(state)
        state = state >> 1 | ((state ^ state >> 1 ^ state >> 3 ^ state >> 12) & 1) << 15
    return np.array(states)


def encode(images: np.ndarray, steps: int, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yield for every step which pixels spike: those above half the state of the shift register.

    All images begin at the same state, the one after ``seed``. A pixel of value p > 0 spikes in 2p - 1 of the 65,535
    steps of a period.

    Args:
        images: whole numbers from 0 to 255, any shape; each step yields a boolean array of this shape.
        steps: time steps.
        seed: of the shift register.

    Raises:
        TypeError, ValueError: as `lfsr`; if the images are no whole numbers from 0 to 255.
    """
    images = np.asarray(images)
    if images.dtype.kind not in "iu" or (images.size and not 0 <= images.min() <= images.max() <= 255):
        given = images.dtype if images.dtype.kind not in "iu" else f"{images.min()} to {images.max()}"
        raise ValueError(f"images must be whole numbers from 0 to 255, got {given}")
    thresholds = lfsr(positive("steps", steps) + 1, seed)[1:] >> 1
    return (images > threshold for threshold in thresholds.tolist())


@dataclass(frozen=True)
class IntegerLIF:
    """A layer of leaky integrate-and-fire neurons whose membranes are integers.

    In one step a membrane leaks, v - (v >> shift); it gains the weights of the inputs that spike, and ``inhibition``
    for each other neuron that fired in the step before; above its threshold the neuron fires and is set to ``reset``.

    Attributes:
        weights: integers, shape (neurons, inputs).
        thresholds: integers, shape (neurons,).
        inhibition: what another neuron's spike adds; negative.
        reset: membrane at the start and after a spike.
        shift: of the leak; a positive membrane below 2^shift does not leak.
        bits: of a membrane, sign included.

    Raises:
        TypeError, ValueError: if shapes do not match, or a number is no integer or does not fit ``bits``.
    """

    weights: np.ndarray
    thresholds: np.ndarray
    inhibition: int = 0
    reset: int = 0
    shift: int = 10
    bits: int = 16

    def __post_init__(self) -> None:
        most = 1 << positive("bits", self.bits, 2, 32) - 1
        positive("shift", self.shift)
        for name in ("weights", "thresholds", "inhibition", "reset"):
            values = np.asarray(getattr(self, name))
            if values.dtype.kind not in "iu":
                raise TypeError(f"{name} must be whole numbers, got {values.dtype}")
            if values.size and not -most <= values.min() <= values.max() < most:
                raise ValueError(f"{name} must fit {self.bits} bits, got {values.min()} to {values.max()}")
        if np.ndim(self.weights) != 2 or np.shape(self.thresholds) != np.shape(self.weights)[:1]:
            shapes = f"{np.shape(self.weights)} and {np.shape(self.thresholds)}"
            raise ValueError(f"weights and thresholds must be (neurons, inputs) and (neurons,), got {shapes}")

    def run(self, spikes: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield for every step which neurons fire, (images, neurons), given which inputs spike, (images, inputs)."""
        ends, membrane, fired = (-(1 << self.bits - 1), (1 << self.bits - 1) - 1), self.reset, None
        weights = self.weights.T.astype(float)
        for step in spikes:
            fired = np.zeros((len(step), len(self.weights)), dtype=bool) if fired is None else fired
            others = fired.sum(axis=1, keepdims=True) - fired
            gained = (step.astype(float) @ weights).astype(np.int64) if step.any() else 0  # exact: far below 2^53
            membrane = np.clip(leak(membrane, self.shift) + gained + self.inhibition * others, *ends)
            fired = membrane > self.thresholds
            membrane = np.where(fired, self.reset, membrane)
            yield fired


def leak(membrane: np.ndarray | int, shift: int = 10) -> np.ndarray | int:
    """Return what is left of a membrane after one step, ``v - (v >> shift)`` with the shift rounding down."""
    return membrane - (membrane >> shift)


def cycles(active: np.ndarray, fired: np.ndarray, inputs: int, neurons: int) -> int:
    """Return the clock cycles of one image.

    One for each step; one for each input where any of them spikes; one for each neuron where any of them fired in the
    step before.

    Args:
        active: whether any input spikes, shape (steps,).
        fired: whether any neuron fires, shape (steps,).
        inputs: of the layer.
        neurons: of the layer.

    Raises:
        ValueError: if the two are not of the same steps.
    """
    if np.shape(active) != np.shape(fired) or np.ndim(active) != 1:
        raise ValueError(f"active and fired must be of the same steps, got {np.shape(active)} and {np.shape(fired)}")
    return len(active) + inputs * int(np.sum(active)) + neurons * int(np.sum(fired[:-1]))
