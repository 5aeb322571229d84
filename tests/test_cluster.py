"""Sweeps by Snakemake: here, and on a cluster of scripts that answer as SLURM does. A real cluster was not tried.

What needs Snakemake is tested where it is installed (``pip install -e .[sweep]``); ``make test`` does without.
"""

import os
import stat
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from epimlib.lab import cluster
from tests import test_sweep
from tests.test_cli import EPIM, epim
from tests.test_sweep import rows

project = test_sweep.project  # a fixture
SWEEP = ("sweep", "tiny", "-p", "n=1,13,2", "-j", "2", "--engine", "snakemake", "--output", "s")
FAILED = "failed: n = 13: cell 4 raised AssertionError: thirteen (what was executed is in "
SLURM = {
    "sbatch": """
while ! mkdir "$SLURM/job-$((number = number + 1))" 2> /dev/null; do :; done
job="$SLURM/job-$number"
while [ $# -gt 0 ]; do
  case "$1" in
    --wrap=*) work="${1#--wrap=}" ;;
    -D) cd "$2" ;;
  esac
  shift
done
echo RUNNING > "$job/state"
(sh -c "$work" > "$job/log" 2>&1 && echo COMPLETED > "$job/state" || echo FAILED > "$job/state") > /dev/null 2>&1 &
echo "$number"
""",
    "sacct": 'for job in "$SLURM"/job-*; do echo "${job##*-}|$(cat "$job/state")"; done',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec sh -c "$*"',
    "sacctmgr": "echo me",
    **dict.fromkeys(("scontrol", "sinfo", "squeue", "scancel"), ":"),
}
"""What the executor asks for, as scripts."""
PROFILE = """executor: slurm
seconds-between-status-checks: 1
slurm-init-seconds-before-status-checks: 1
default-resources: {slurm_partition: batch, slurm_account: me, runtime: 5}
"""


def test_without_snakemake_it_says_what_to_install(project, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    code, out, err = epim(capsys, *SWEEP)
    assert (code, out) == (2, "")
    assert not Path("s").exists()
    assert err == "epim: the engine snakemake is not installed: pip install 'snakemake>=9,<10'\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tiny", "--profile", "slurm"), "--profile and --snakemake are for --engine snakemake"),
        (("tiny", "--engine", "snakemake", "--chunk", "0"), "--chunk must be at least 1, got 0"),
        (("tiny", "--engine", "snakemake", "--snakemake", "'"), "No closing quotation"),
        (("study.yaml", "--engine", "snakemake"), "--engine snakemake is for notebooks; study.yaml is of trainings"),
    ],
)
def test_a_wrong_request_is_one_sentence(project, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setattr(cluster, "find_spec", lambda name: True)
    (project / "study.yaml").write_text(test_sweep.STUDY)
    before = sorted(project.rglob("*"))
    assert epim(capsys, "sweep", *arguments) == (2, "", f"epim: {sentence}\n")
    assert sorted(project.rglob("*")) == before


if find_spec("snakemake"):

    def test_snakemake_runs_chunks_here_and_goes_on(project):
        def swept(*more: str) -> subprocess.CompletedProcess:
            return subprocess.run([*EPIM, *SWEEP, *more], capture_output=True, text=True, check=False)

        done = swept()
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-2].startswith(FAILED)
        assert done.stderr.endswith("epim: 1 of 3 runs failed; the same command begins them anew\n")
        assert [row["n"] for row in rows(Path("s"))] == ["1", "2"]
        first = {path: path.read_bytes() for path in Path("s").glob("*/record.json")}

        locks = Path("s/.snakemake/locks")
        locks.mkdir(exist_ok=True)
        locks.joinpath("0.output.lock").write_text("x/record.json\n")
        done = swept("-p", "m=1,2")
        assert "a lock that an earlier Snakemake left in s was removed\n" in done.stderr
        assert [(row["n"], row["m"]) for row in rows(Path("s"))] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
        assert {path: path.read_bytes() for path in first} == first

    def test_snakemake_that_was_killed_goes_on(project):
        command = [*EPIM, *SWEEP, "--chunk", "1", "--where", "n != 13"]
        sweeping = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(Path("s").glob(".snakemake/locks/*")):
            time.sleep(0.1)
        sweeping.kill()
        sweeping.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [row["n"] for row in rows(Path("s"))] == ["1", "2"]


if find_spec("snakemake_executor_plugin_slurm") and os.name != "nt":

    def test_a_profile_brings_it_onto_slurm(project, tmp_path):
        for name, script in SLURM.items():
            (path := tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\necho {name} $* >> $SLURM/calls\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "slurm").mkdir()
        (tmp_path / "profile").mkdir()
        (tmp_path / "profile" / "config.yaml").write_text(PROFILE)
        environment = os.environ | {"SLURM": str(tmp_path / "slurm")}
        environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = [*EPIM, *SWEEP, "--profile", str(tmp_path / "profile")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        calls = (tmp_path / "slurm" / "calls").read_text().splitlines()
        assert sum(call.startswith("sbatch --parsable") for call in calls) == 2, done.stderr
        assert done.returncode == 1
        assert done.stderr.splitlines()[-2].startswith(FAILED)
        assert [row["n"] for row in rows(Path("s"))] == ["1", "2"]
