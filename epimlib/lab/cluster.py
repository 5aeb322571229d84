"""Sweeps by Snakemake, which brings them onto clusters. A job is a chunk of points, each promises its record alone.

``python -m epimlib.lab.cluster FOLDER POINT...`` is what such a job does.
"""

import contextlib
import functools
import importlib
import json
import math
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from epimlib._checks import write_json, write_text
from epimlib.lab.jobs import UNFINISHED, Job, begin, run_point, sentence_of
from epimlib.lab.records import RECORD

SNAKEFILE = f"""# Written by epim sweep, anew at each call, for the points that are left.
import json
import sys

with open(f"{{workflow.basedir}}/points.json", encoding="utf-8") as file:
    CHUNKS = json.load(file)["chunks"]

rule all:
    input: [f"{{point}}/{RECORD}" for chunk in CHUNKS for point in chunk]

for number, chunk in enumerate(CHUNKS):
    rule:
        name: f"chunk_{{number}}"
        output: [f"{{point}}/{RECORD}" for point in chunk]
        params: python=sys.executable, points=chunk
        shell: "{{params.python:q}} -m epimlib.lab.cluster . {{params.points}}"
"""
ALWAYS = ("--keep-going", "--keep-incomplete", "--rerun-incomplete")
"""A chunk goes on behind a point that failed, and what it made is kept."""


def need_snakemake() -> None:
    """Raise ``ValueError`` if Snakemake is not installed."""
    if find_spec("snakemake") is None:
        raise ValueError("the engine snakemake is not installed: pip install 'snakemake>=9,<10'")


def by_snakemake(
    jobs: Sequence[Job], workers: int, profile: str | None = None, options: Sequence[str] = (), chunk: int = 10
) -> dict[Path, str]:
    """Do what is not done, and return the sentences of what failed, as `run_jobs` does.

    Args:
        jobs: of `Sweep.jobs`, all in one folder, which no other sweep may use at the same time (`alone`).
        workers: jobs of Snakemake at a time.
        profile: of Snakemake, ``slurm`` for instance.
        options: further ones of Snakemake, as ``["--executor", "slurm"]``.
        chunk: most points of a job; fewer where some workers would have nothing to do.

    Raises:
        ValueError: if Snakemake is not installed.
    """
    need_snakemake()
    left = [job for job in jobs if not job.done]
    if not left:
        return {}
    folder = left[0].folder.parent
    size = min(chunk, math.ceil(len(left) / workers))
    names = [job.folder.name for job in left]
    chunks = [names[first : first + size] for first in range(0, len(names), size)]
    points = {job.folder.name: job.work.args[:2] for job in left}
    write_json(folder / "points.json", {"chunks": chunks, "points": points})
    write_text(folder / "Snakefile", SNAKEFILE)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if list((folder / ".snakemake" / "locks").glob("*")):
        shutil.rmtree(folder / ".snakemake" / "locks")
        print(f"a lock that an earlier Snakemake left in {folder} was removed", file=sys.stderr)
    asked = ["--snakefile", str(folder / "Snakefile"), "--directory", str(folder), "--jobs", str(workers), *ALWAYS]
    asked += [*(["--profile", profile] if profile else []), *options]
    with contextlib.suppress(SystemExit), contextlib.chdir(Path.cwd()):
        importlib.import_module("snakemake.cli").main(asked)
    return {job.folder: _said(job) for job in left if not job.done}


def _said(job: Job) -> str:
    path = job.folder.parent / UNFINISHED / f"{job.folder.name}.txt"
    return path.read_text("utf-8") if path.is_file() else "its job left no record; the logs in .snakemake may say why"


def main(path: str, *names: str) -> int:
    """Run points of ``points.json`` in a folder, and return the exit code: 1 if any failed."""
    begin()
    folder = Path(path).resolve()
    points = json.loads((folder / "points.json").read_text("utf-8"))["points"]
    failed = False
    for name in names:
        work = functools.partial(run_point, *points[name], folder / name)
        if sentence := sentence_of(work):
            print(sentence, file=sys.stderr)
            write_text(folder / UNFINISHED / f"{name}.txt", sentence)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
