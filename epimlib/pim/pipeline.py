"""When each output position of each layer is finished, if a layer starts as soon as its window is there.

The positions of a layer follow one another, row by row. Position ``i`` of a layer starts when position ``i - 1`` is
finished and the layers that it reads have finished the last input in its window::

    finish[i] = max(finish[i - 1], ready[i]) + time[i]

which is a running maximum once the times before ``i`` are taken off: no loop over positions is needed.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from epimlib.epitome.workload import Layer, Workload


def pipeline(workload: Workload, times: Sequence[float | np.ndarray]) -> list[tuple[float, float]]:
    """Return start and finish of every layer [s].

    Args:
        workload: the network.
        times: for every layer the time of one output position [s]: a number, or an array ``(positions,)``.
    """
    finish, spans = {}, []
    for layer, time in zip(workload.layers, times, strict=True):
        done = finish[layer.name] = finish_times(layer, time, finish)
        first = time if np.isscalar(time) else time[0]
        spans.append((float(done[0] - first), float(done[-1])))
    return spans


def finish_times(layer: Layer, time: float | np.ndarray, finish: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return when every output position of a layer is finished [s], ``(positions,)``.

    Args:
        layer: of the network.
        time: of one output position [s]: a number, or an array ``(positions,)``.
        finish: the result of the layers before it, by name.
    """
    before = time * _count(layer.positions) if np.isscalar(time) else time.cumsum() - time
    ready = [_ready(layer, finish[name]) for name in layer.inputs if name != "input"]
    if not ready:
        return before + time
    wait = ready[0] - before if len(ready) == 1 else np.maximum.reduce(ready) - before
    np.maximum.accumulate(wait, out=wait)
    wait += before
    wait += time
    return wait


def _ready(layer: Layer, finish: np.ndarray) -> np.ndarray:
    """Return when the last input of every position's window is there, ``(positions,)``."""
    if len(finish) != layer.in_size[0] * layer.in_size[1] or layer.kind == "matmul":
        return np.full(layer.positions, finish[-1])  # flattened, broadcast, or attention: all of it
    if layer.in_size == layer.out_size and layer.kernel_size == (1, 1):
        return finish
    rows, cols = (_last_input(*axis) for axis in layer.axes)
    return finish.reshape(layer.in_size)[rows[:, None], cols].reshape(-1)


@lru_cache(maxsize=64)
def _count(positions: int) -> np.ndarray:
    return np.arange(positions, dtype=np.float64)


@lru_cache(maxsize=256)
def _last_input(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """Return the last input in the window of every position along one axis; padding needs none."""
    start = np.arange(out) * stride - padding
    tap = np.minimum(kernel - 1, (size - 1 - start) // dilation)
    return np.maximum(start + tap * dilation, 0)
