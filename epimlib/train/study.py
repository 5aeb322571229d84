"""The trainings of a file of experiments as jobs, each after the one that it starts from."""

import functools
from collections.abc import Sequence
from pathlib import Path

from epimlib.lab.jobs import Job
from epimlib.train.config import Run, TrainConfig


def study_jobs(runs: Sequence[Run], output: str | Path, device: str = "auto") -> list[Job]:
    """Return a job for each run, in the folders that ``epim train`` gives them, ``<output>/<study>/<run>-s<seed>``.

    Args:
        runs: of `read_experiments`.
        output: the folder of their folders.
        device: as for `train`.
    """
    listed = []
    for run in runs:
        folder = Path(output) / run.study / run.folder
        start = folder.parent / f"{run.config.start}-s{run.config.seed}" if run.config.start else None
        work = functools.partial(_train, run.config, folder, start, device, f"train {run.study}/{run.folder}")
        point = {"run": run.name, "seed": run.config.seed}
        listed.append(Job(folder, point, work, (start,) if start else ()))
    return listed


def _train(config: TrainConfig, folder: Path, start: Path | None, device: str, name: str) -> None:
    from epimlib.train.training import train

    train(config, folder, start, device, progress=False, name=name)
