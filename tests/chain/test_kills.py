"""kill -9 in the middle of the real stages: they go on, never two at once, and end with the same bytes."""

import pytest
from processes import kill, stopped, wait_for
from safetensors.numpy import load

VICTIMS = ("stage", "dvc", "both")
OFTEN = {"FEWSTEP_CHECKPOINT_SECONDS": "0"}  # before every step


@pytest.fixture
def finished(slow):
    """Here couple takes long enough to be killed in the middle of it."""
    return slow


def steps_on_disk(checkout) -> int:
    """Return the training steps of pretrain@base that a kill can't take any more."""
    for file in (checkout / ".fewstep/scratch").glob("pretrain@base.*/work/train_state.safetensors"):
        return int(load(file.read_bytes())["step"])  # in one go, since another may take the file's place
    return 0


def shards_on_disk(checkout) -> int:
    """Return the finished shards of couple@round1."""
    return len(list((checkout / ".fewstep/scratch").glob("couple@round1.*/out/train/.shard-*.tar.json")))


def the_stage(checkout) -> int:
    """Return the process of the stage that runs."""
    (pid,) = wait_for(checkout.stage_pids)
    return pid


def kill_some(victims: str, dvc, stage: int) -> None:
    for pid in {"stage": [stage], "dvc": [dvc.pid], "both": [dvc.pid, stage]}[victims]:
        kill(pid)


@pytest.mark.parametrize(
    ("address", "done", "enough"),
    [("pretrain@base", steps_on_disk, 4), ("couple@round1", shards_on_disk, 1)],
)
def test_a_stage_killed_in_the_middle_resumes_to_the_same_bytes(checkout, finished, address, done, enough):
    out = checkout.forget(address)
    for round_, victims in enumerate(VICTIMS):
        before = done(checkout)
        dvc = checkout.begin("dvc", "repro", address, **OFTEN)
        wait_for(lambda: done(checkout) >= before + enough)  # noqa: B023
        kill_some(victims, dvc, the_stage(checkout))
        said, _ = dvc.communicate(timeout=60)  # ends when the stage, which holds the pipe, has ended too
        assert f"Running stage '{address}'" in said
        assert ("resuming from" in said) == (round_ > 0)
        assert not (checkout / out).exists()
    last = checkout.repro(address)
    assert last.ran == [address]
    assert "resuming from" in last.said
    assert checkout.files(out) == finished.files(out)
    assert checkout.locked()[address] == finished.locked()[address]
    assert checkout.repro(address).ran == []


def killed_just_after_publishing(checkout, address: str, victims: str) -> bool:
    """Kill before DVC takes the result over; return whether it did not, as the stage had not yet ended."""
    out = checkout.forget(address, scratch=False)
    dvc = checkout.begin("dvc", "repro", address)
    stage = the_stage(checkout)
    with stopped(dvc.pid):
        wait_for((checkout / out).exists)
        kill_some(victims, dvc, stage)
    dvc.communicate(timeout=60)
    assert (checkout / out).exists()
    return address not in checkout.locked()


def test_killed_just_after_publishing_no_work_is_lost(checkout, finished):
    address, out = "pretrain@base", "artifacts/models/base"
    for victims in VICTIMS:
        hit = (killed_just_after_publishing(checkout, address, victims) for _ in range(10))
        assert any(hit), "each time the stage had ended before it was killed"
        again = checkout.repro(address)
        assert "made before, publishing it" in again.said
        assert "100 %" not in again.said
        assert checkout.files(out) == finished.files(out)
    assert checkout.repro(address).ran == []


def test_a_retry_beside_an_orphan_never_writes_with_it(checkout, finished, tmp_path):
    """A stage that a person started does not die with dvc, so the retry has to wait for it."""
    out = checkout.forget("couple@round1")
    person = checkout.begin("python", "-m", "stages.couple", "round1")
    wait_for(lambda: shards_on_disk(checkout))
    with stopped(person.pid):
        retry = checkout.begin("dvc", "repro", "couple@round1", said=tmp_path / "said")
        wait_for(lambda: "another process is making this very result" in (tmp_path / "said").read_text())
    assert person.wait() == 0
    assert retry.wait() == 0, (tmp_path / "said").read_text()
    assert "made before, publishing it" in (tmp_path / "said").read_text()
    assert checkout.files(out) == finished.files(out)
