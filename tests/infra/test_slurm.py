"""The script for Slurm, with programs in the place of Slurm's that say what they were asked."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "train.slurm"
PROGRAMS = {
    "scontrol": "echo first; sleep 0.2; echo second",  # whoever reads the first line alone breaks its pipe
    "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    "dvc": 'echo "dvc $* $FEWSTEP_NODE_RANK/$FEWSTEP_NODES $FEWSTEP_PROCESSES $FEWSTEP_RENDEZVOUS"',
    "python": 'echo "python $* $FEWSTEP_NODE_RANK/$FEWSTEP_NODES $FEWSTEP_PROCESSES $FEWSTEP_RENDEZVOUS"',
}


def submitted(folder, *arguments):
    """Return what the script says in a job of two machines with four GPUs each."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, does in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{does}\n")
        (programs / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "71234", "SLURM_JOB_NODELIST": "x"}
    return subprocess.run(
        ["bash", SCRIPT, *arguments], cwd=folder, env=os.environ | job, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("stage", "helper"),
    [("pretrain@base", "stages.pretrain base"), ("distill@boss-4", "stages.distill boss-4")],
)
def test_the_first_machine_publishes_and_the_others_help(tmp_path, stage, helper):
    done = submitted(tmp_path, stage)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"dvc repro --single-item {stage} 0/2 4 first:21234",
        f"python -m {helper} 1/2 4 first:21234",
    ]


def test_a_job_without_a_stage_is_refused(tmp_path):
    done = submitted(tmp_path)
    assert done.returncode
    assert "give a stage that trains" in done.stderr
