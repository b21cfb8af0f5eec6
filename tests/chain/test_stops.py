"""A stage that has to stop, for its result or for the disk, says why, and nothing is lost."""

import os
import re

import pytest
from safetensors import safe_open

OFTEN = {"FEWSTEP_CHECKPOINT_SECONDS": "0"}  # before every step


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(project, tmp_path):
    project.set(
        pretrain={"base": {"train": {"learning_rate": 1e18, "warmup": 12}, "gates": {"loss_ratio": None}}}
    )
    said = project.refused("dvc repro pretrain@base", **OFTEN)
    told = r"pretrain@base: the loss or its gradient was not finite 10 updates in a row, up to step (\d+)"
    found = re.search(told, said)
    assert found, said
    (file,) = tmp_path.glob("scratch/pretrain@base.*/work/train_state.safetensors")
    with safe_open(file, framework="pt") as state:
        assert int(state.get_tensor("step")) <= int(found.group(1))
        assert all(bool(state.get_tensor(name).isfinite().all()) for name in state.keys())  # noqa: SIM118


def test_failed_checks_stop_the_chain_and_can_be_overridden(project):
    project.set(
        pretrain={"base": {"train": {"steps": 3, "learning_rate": 1.0, "ema": 0.0}}},  # which only spoils it
        couple={"round1": {"pairs": 64, "solver": "euler", "nfe": 2}},
    )
    stopped = project.repro(ok=False)
    assert stopped.ran == ["pretrain@base"]
    assert "pretrain@base: the check of the trained model failed: its held-out loss went from" in stopped.said
    assert "set pretrain.base.gates.loss_ratio to null" in stopped.said

    project.set(pretrain={"base": {"gates": {"loss_ratio": None}}})
    stopped = project.repro("distill@one-step", ok=False)
    assert stopped.ran == ["pretrain@base", "couple@round1"]
    assert (
        "pretrain@base: made before, publishing it" in stopped.said
    )  # what was only judged is not made again
    assert "couple@round1: the check of the pairs failed: " in stopped.said
    assert "set couple.round1.gates to warn to continue" in stopped.said
    assert "couple@round1: warning: " in stopped.said
    assert "Traceback" not in stopped.said

    project.set(couple={"round1": {"gates": "warn"}})
    assert "couple@round1: made before, publishing it" in project.repro("couple@round1").said


@pytest.mark.parametrize(("stage", "kilobytes"), [("couple round1", 10), ("pretrain base", 200)])
def test_a_stage_whose_file_does_not_fit_reports_it(project, stage, kilobytes):
    """A limit on the size of files is what an unprivileged test can set in place of a full disk."""
    unmeasured = {"COVERAGE_PROCESS_CONFIG": ""}  # whose file is larger than the limit
    said = project.refused(f"ulimit -f {kilobytes}; python -m stages.{stage}", **OFTEN, **unmeasured)
    assert said.startswith(stage.replace(" ", "@") + ": ")
    assert "room" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_named_and_the_stage_resumes(project, finished, tmp_path):
    disk, address = tmp_path / "scratch", "pretrain@base"
    disk.mkdir()
    if project.sh(f"mount -t tmpfs -o size=900k tmpfs {disk}", ok=None):
        pytest.skip("mounting is not allowed here")
    try:
        out = project.forget(address, scratch=False)
        said = project.refused(f"dvc repro {address}", **OFTEN)
        assert f"{address}: the disk of {disk} is full (" in said
        assert f"Make room, then resume with: dvc repro {address}" in said
        assert not (project / out).exists()
        project.sh(f"mount -o remount,size=100m {disk}")
        again = project.repro(address)
        assert "resuming from" in again.said
        assert project.files(out) == finished.files(out)
    finally:
        project.sh(f"umount {disk}")
