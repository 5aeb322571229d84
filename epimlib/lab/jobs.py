"""Jobs: work that leaves the record of a run in a folder, done side by side by processes of this machine.

What has its record is not done again. So a call that was killed, at whatever moment, is continued by the same call.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from epimlib._checks import FULL, line, make_folder, sync
from epimlib.lab.notebooks import Notebook, RunError, execute
from epimlib.lab.records import RECORD

UNFINISHED = "unfinished"
"""Where runs lie that have begun, in the folder of a sweep."""


@dataclass(frozen=True)
class Job:
    """Work that leaves a record.

    Attributes:
        folder: that has the record when the work is done.
        point: what tells the job from the others, by name.
        work: does it; another process must be able to load the function (pickle).
        after: folders of the jobs that must be done before.
    """

    folder: Path
    point: Mapping[str, Any]
    work: Callable[[], object]
    after: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        """Return whether its record is there."""
        return (self.folder / RECORD).is_file()

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.point.items()) or "every parameter at its default"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder. The system ends that with the process, however that ends.

    Raises:
        ValueError: if one is at work there.
        OSError: if the folder cannot be written.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another sweep is at work in {folder}; wait for its end, or take another folder") from None
    try:
        yield
    finally:
        lock.release()


def run_jobs(jobs: Sequence[Job], workers: int, name: str) -> dict[Path, str]:
    """Do what is not done, ``workers`` at a time, and return the sentences of those that failed, by folder.

    A processor core computes for one of them: each has one thread, unless ``OMP_NUM_THREADS`` says another number. So
    what is found does not depend on ``workers``.

    Raises:
        RunError: if the disk is full or a process was killed; the same call goes on.
    """
    waiting, running = [job for job in jobs if not job.done], {}
    failed: dict[Path, str] = {}
    with tqdm(total=len(waiting), desc=name, unit="run", disable=None) as bar, _processes(workers) as pool:
        while waiting or running:
            for job in _ready(waiting, failed, workers - len(running)):
                waiting.remove(job)
                running[pool.submit(sentence_of, job.work)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if sentence := _result(future):
                    failed[job.folder] = sentence
                bar.update()
            for job in [job for job in waiting if any(folder in failed for folder in job.after)]:
                waiting.remove(job)
                failed[job.folder] = "what it starts from has failed"
                bar.update()
    if not failed:
        for folder in {job.folder.parent for job in jobs}:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return failed


def _ready(waiting: Sequence[Job], failed: Mapping[Path, str], count: int) -> list[Job]:
    """Return up to ``count`` jobs that can start."""
    free = (job for job in waiting if all((folder / RECORD).is_file() for folder in job.after))
    return [job for job, _ in zip(free, range(count), strict=False)]


def _result(future: Future) -> str:
    try:
        return future.result()
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}; the same command goes on with what is left") from error
    except BrokenProcessPool as error:
        raise RunError("a process was killed; the same command goes on with what is left") from error


@contextlib.contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), begin)
    try:
        yield pool
    except KeyboardInterrupt:  # of other errors the cause is known, and what runs may end
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def begin() -> None:
    """Begin a process that works: with one thread, and with no longer a life than its parent's."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if parent := multiprocessing.parent_process():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then terminates this one
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a kernel is ended first
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def sentence_of(work: Callable[[], object]) -> str:
    """Do it, and return the sentence of its failure, or nothing.

    Raises:
        OSError: if the disk is full, which is not the failure of this work alone.
    """
    try:
        work()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in FULL:
                raise OSError(cause.errno, cause.strerror, cause.filename) from None
            cause = cause.__cause__
        return line(error)
    return ""


def run_point(notebook: str, values: Mapping[str, Any], folder: Path) -> None:
    """Run a notebook into ``folder``, whole or not at all; if it is there, do nothing.

    Raises:
        ValueError, TypeError, OSError, RunError: as `execute` does; what was executed is then in ``unfinished`` beside
            the folder.
    """
    unfinished = folder.parent / UNFINISHED / folder.name
    make_folder(unfinished.parent)
    with FileLock(f"{unfinished}.lock"):  # of a job that outlived the sweep that made it
        if (folder / RECORD).is_file():
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        made = execute(Notebook.load(notebook), values, unfinished, progress=False)
        if folder.is_dir():
            folder.rmdir()  # an empty one, which Snakemake makes
        os.rename(made, folder)
        sync(folder.parent)
        shutil.rmtree(unfinished)


def complain(jobs: Sequence[Job], failed: Mapping[Path, str]) -> None:
    """Say which jobs failed and why.

    Raises:
        RunError: if any has.
    """
    for job in jobs:
        if job.folder in failed:
            print(f"failed: {job}: {failed[job.folder]}", file=sys.stderr)
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed; the same command begins them anew")
