"""The layer-wise search on ResNet-50: designs that an evolution tries per minute, and what the table of costs saves.

Processor time of one thread. The evolution is compared, in the same process, with the same number of designs of which
each is evaluated by itself, and with HiGHS, which needs no designs at all to prove the optimum.
"""

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from epimlib import Hardware, Workload, evaluate
from epimlib.search import candidates, copied_channels, evolve, solve_exact
from epimlib.search.table import tabulate


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call [s], and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def main() -> None:
    workload, hardware = Workload.load("resnet50"), Hardware.preset("default")
    seconds, table = timed(lambda: tabulate(workload, hardware, candidates(workload)))
    print(f"{sum(map(len, table.candidates)):,} candidates tabulated in {seconds:.2f} s\n")

    choice = np.random.default_rng(0).integers(0, [len(own) for own in table.candidates])
    design, bits = table.design(choice)
    one = min(timed(lambda: evaluate(workload, hardware, design, bits, pipelined=False))[0] for _ in range(50))

    own = zip(table.layers, table.candidates, strict=True)
    copies = {name: [0 if c.spec is None else copied_channels(c.spec) for c in options] for name, options in own}
    cases = [("latency", 150, None), ("latency", 300, None), ("energy", 300, None), ("edp", 300, None)]
    cases += [("latency", 300, 6000)]
    rows = []
    for objective, budget, limit in cases:
        limits = {"budget": budget} | ({} if limit is None else {"proxy": copies, "limit": limit})
        seconds, found = timed(lambda: evolve(table, objective, **limits, generations=200, progress=False))  # noqa: B023
        proof, exact = timed(lambda: solve_exact(table, objective, **limits))  # noqa: B023
        speed = found.evaluations / seconds
        rows.append((objective, budget, limit, speed * 60 / 1e6, speed * one, found.value / exact.value - 1, proof))
    names = ["objective", "crossbars", "copied channels", "designs [million/min]", "times evaluate", "gap", "proof [s]"]
    frame = pd.DataFrame(rows, columns=names)
    frame["gap"] = frame["gap"].map("{:.3%}".format)
    frame["copied channels"] = [limit or "any" for *_, limit in cases]
    print(frame.to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
