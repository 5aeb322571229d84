"""The cost model on ResNet-50: how long an evaluation takes, and what the vectorised forms save.

One thread, best of several runs. What each is compared with runs in the same process: designs evaluated one by one, and
the pipeline walked position by position as simulators do. (MNSIM 2.0 itself took 3 to 5 s for one evaluation of this
network on a core of the machine that made `tests/reference`.)
"""

import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from epimlib import Design, EpitomeSpec, Hardware, Workload, evaluate
from epimlib.pim.pipeline import pipeline
from epimlib.search.table import Candidate, tabulate

DESIGNS = 200_000


def best(call: Callable[[], object], runs: int) -> float:
    """Shortest of several runs [s]."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def walk(workload: Workload, times: list[float]) -> float:
    """Latency of the pipeline, position by position."""
    done: dict[str, list[list[float]]] = {}
    for layer, step in zip(workload.layers, times, strict=True):
        clock, finish = 0.0, []
        for i in range(layer.out_size[0]):
            finish.append([])
            for j in range(layer.out_size[1]):
                ready = clock
                for source in (done[name] for name in layer.inputs if name != "input"):
                    last = [
                        max(0, min(x * layer.stride[a] - layer.padding[a] + layer.kernel_size[a], size) - 1)
                        for a, x, size in ((0, i, len(source)), (1, j, len(source[0])))
                    ]
                    ready = max(ready, source[last[0]][last[1]])
                clock = ready + step
                finish[-1].append(clock)
        done[layer.name] = finish
    return max(finish[-1][-1] for finish in done.values())


def candidates(workload: Workload) -> dict[str, list[Candidate]]:
    """Dense and a few epitomes at 3, 5 and 9 bits for every layer."""
    options = {}
    for layer in workload.weighted:
        shape = (layer.out_channels, layer.in_channels, layer.kernel_size)
        specs = {EpitomeSpec.for_crossbars(*shape, rows, 256, wrap) for rows in (256, 1024) for wrap in (1, "full")}
        kept = [None, *sorted((spec for spec in specs if spec.compression > 1), key=repr)]
        options[layer.name] = [Candidate(spec, bits) for spec in kept for bits in (3, 5, 9)]
    return options


def main() -> None:
    workload, hardware = Workload.load("resnet50"), Hardware.preset("default")
    design = Design.uniform(workload, 1024, 256)
    report = evaluate(workload, hardware)
    times = [cost.latency / layer.positions for cost, layer in zip(report.layers, workload.layers, strict=True)]
    assert np.isclose(walk(workload, times), report.latency, rtol=1e-12)

    cold = best(lambda: evaluate(workload, hardware, design), 1)
    dense, warm = (best(lambda d=d: evaluate(workload, hardware, d), 100) for d in (None, design))
    vectorised, walked = best(lambda: pipeline(workload, times), 50), best(lambda: walk(workload, times), 3)
    simulator = Hardware.preset("mnsim-2024")
    mnsim = best(lambda: evaluate(workload, simulator), 10)

    options = candidates(workload)
    table = tabulate(workload, hardware, options)
    rng = np.random.default_rng(0)
    designs = np.stack([rng.integers(0, len(options[name]), DESIGNS) for name in table.layers], axis=1)
    many = best(lambda: table.evaluate(designs), 5) / DESIGNS
    single = best(lambda: evaluate(workload, hardware, *table.design(designs[0]), pipelined=False), 20)

    rows = [
        ("evaluate, default, dense, pipelined", dense, ""),
        ("evaluate, default, 1024x256 epitomes, first time", cold, ""),
        ("evaluate, default, 1024x256 epitomes, again", warm, ""),
        ("evaluate, mnsim-2024, pipelined", mnsim, ""),
        ("pipelined latency", vectorised, f"{walked / vectorised:.0f} times as fast as position by position"),
        ("one design of evaluate_many", many, f"{single / many:,.0f} times as fast as evaluate"),
    ]
    frame = pd.DataFrame(rows, columns=["ResNet-50", "time [ms]", ""]).set_index("ResNet-50")
    frame["time [ms]"] *= 1e3
    print(frame.to_string(float_format="{:.4f}".format))
    print(f"evaluate_many: {1 / many:,.0f} designs per second")


if __name__ == "__main__":
    main()
