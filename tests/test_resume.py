"""An interrupted training, resumed, ends with the bytes of one that was not."""

import json
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import forked
import pytest
import torch
import trainings
from processes import wait_for
from recorded import VARIANTS, FixedBatches, Recorder, TwoNetworks, run, student, student_of, teacher
from safetensors.torch import save_file

from fewstep.checkpoint import model_digest, save_model
from fewstep.errors import UserError
from fewstep.methods.adversarial import Adversarial
from fewstep.methods.consistency import Consistency
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.reflow import Reflow
from fewstep.methods.sim import Sim
from fewstep.settings import TrainSettings
from fewstep.training import state

SETTINGS = TrainSettings(steps=40, batch=8, warmup=5)


class StopError(Exception):
    """Something that has nothing to do with training."""


@dataclass(frozen=True)
class StoppingBatches(FixedBatches):
    stop: int = 0

    def __getitem__(self, step):
        if step == self.stop:
            raise StopError
        return super().__getitem__(step)


def train_once(state, *, method=None, batches=None, progress=None, steps=40):
    method = method or FlowMatching()
    return run(
        state,
        method=method,
        model=student_of(method),
        load=teacher,
        settings=replace(SETTINGS, steps=steps),
        batches=batches,
        progress=progress or Recorder(),
    )


OFTEN = (8, 20, 21)
STOPS = [
    *product([FlowMatching, TwoNetworks], [(1,), (13,), (39,), OFTEN]),
    (Sim, OFTEN),
    (Adversarial, OFTEN),
    (partial(Dmd, gan_weight=0.1), OFTEN),
    (Consistency, OFTEN),
    *((partial(VARIANTS.get, name), (7,)) for name in VARIANTS),
]


def called(value):
    name = getattr(value, "args", None) or getattr(value, "func", value)
    return str(name[0]) if isinstance(name, tuple) and name else getattr(name, "__name__", None)


@pytest.mark.parametrize(("method", "stops"), STOPS, ids=called)
def test_stopped_anywhere_it_ends_with_the_same_bytes(tmp_path, monkeypatch, method, stops):
    steps = 12 if stops == (7,) else 40
    whole = train_once(tmp_path / "whole", method=method(), steps=steps)
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    for stop in stops:
        with pytest.raises(StopError):
            train_once(tmp_path / "cut", method=method(), steps=steps, batches=StoppingBatches(8, stop=stop))
    recorder = Recorder()
    cut = train_once(tmp_path / "cut", method=method(), steps=steps, progress=recorder)
    assert recorder.started == [("train", steps, stops[-1])]
    assert (cut.loss, cut.held_out_loss) == (whole.loss, whole.held_out_loss)
    names = ("cut", "whole")
    states = [(tmp_path / name / "train_state.safetensors").read_bytes() for name in names]
    assert states[0] == states[1]  # every network, average and moment
    for name, trained in zip(names, (cut, whole), strict=True):
        save_model(tmp_path / name / "model", trained.model)
    assert model_digest(tmp_path / "cut/model") == model_digest(tmp_path / "whole/model")


def test_without_a_state_on_disk_it_starts_again(tmp_path):
    with pytest.raises(StopError):  # too early for a first save
        train_once(tmp_path, batches=StoppingBatches(8, stop=30))
    train_once(tmp_path, progress=(recorder := Recorder()))
    assert recorder.started == [("train", 40, 0)]


def test_a_finished_training_is_not_repeated(tmp_path):
    first = train_once(tmp_path)
    again = train_once(tmp_path, batches=StoppingBatches(8, stop=0), progress=(recorder := Recorder()))
    assert recorder.started == [("train", 40, 40)]
    assert (again.loss, again.held_out_loss) == (first.loss, first.held_out_loss)
    assert all(
        torch.equal(a, b) for a, b in zip(*(t.model.parameters() for t in (first, again)), strict=True)
    )


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path):
    file, kills = tmp_path / "cut" / "train_state.safetensors", 0

    def saved():
        return file.stat().st_mtime_ns if file.exists() else 0

    for wait in (0.0, 0.03):
        child = forked.begin(trainings.alone, tmp_path / "cut", FEWSTEP_CHECKPOINT_SECONDS="0")
        before = saved()
        wait_for(lambda: saved() > before or not child.is_alive())  # noqa: B023
        time.sleep(wait)
        child.kill()
        kills += forked.end_of(child) == -signal.SIGKILL
    assert kills == 2
    assert not (tmp_path / "cut" / "model").exists()
    for name in ("cut", "whole"):
        child = forked.begin(trainings.alone, tmp_path / name, FEWSTEP_CHECKPOINT_SECONDS="1000")
        assert forked.end_of(child) == 0
    assert model_digest(tmp_path / "cut/model") == model_digest(tmp_path / "whole/model")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": TrainSettings(steps=40, batch=8, clip=0.5)}, "settings"),
        ({"seed": 1}, "seed"),
        ({"model": student(classes=2)}, "model"),
        ({"method": FlowMatching(times="logit_normal")}, "method"),
        ({"method": Reflow()}, "method"),
    ],
)
def test_the_state_of_another_training_is_refused(tmp_path, change, named):
    run(tmp_path)
    with pytest.raises(UserError, match=f"belongs to a training with another {named}; delete it"):
        run(tmp_path, **change)


def with_a_flipped_bit(content, place):
    """Return a state with one bit of its header or of its tensors changed, as `place` says."""
    header = int.from_bytes(content[:8], "little")
    position = {
        "tensor": 8 + header + 5,
        "last": len(content) - 1,
        "facts": content.index(b"steps") + 9,  # a digit of a setting
        "seal": content.index(b"sha256") + 14,
    }[place]
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES = {
    "cut": lambda whole: whole[:-9],
    "no tensors": lambda whole: b"{}",
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(len(whole)),
    "tensor": partial(with_a_flipped_bit, place="tensor"),
    "last tensor": partial(with_a_flipped_bit, place="last"),
    "facts": partial(with_a_flipped_bit, place="facts"),
    "seal": partial(with_a_flipped_bit, place="seal"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_set_aside_with_a_message_and_the_training_starts_again(tmp_path, damage):
    whole = run(tmp_path)
    file = tmp_path / "train_state.safetensors"
    written = file.read_bytes()
    file.write_bytes(damaged := DAMAGES[damage](written))
    again = run(tmp_path, progress=(recorder := Recorder()))
    assert recorder.started[0][2] == 0
    (note,) = recorder.notes
    assert f"{file} is damaged (" in note
    assert "it is train_state.safetensors.damaged now, and the training starts from the beginning" in note
    assert (tmp_path / "train_state.safetensors.damaged").read_bytes() == damaged
    assert file.read_bytes() == written
    assert (again.loss, again.held_out_loss) == (whole.loss, whole.held_out_loss)


def test_a_state_that_became_a_folder_is_set_aside(tmp_path):
    (tmp_path / "train_state.safetensors" / "lost").mkdir(parents=True)
    run(tmp_path, progress=(recorder := Recorder()))
    assert "is damaged" in recorder.notes[0]
    assert (tmp_path / "train_state.safetensors.damaged/lost").is_dir()


def test_a_file_that_no_training_wrote_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "train_state.safetensors")
    with pytest.raises(UserError, match="belongs to a training with another"):
        run(tmp_path)


def test_the_last_state_stays_until_the_next_is_whole(tmp_path, monkeypatch):
    file, facts = tmp_path / "state.safetensors", {"seed": 1}
    state.write_state(file, {"a": torch.ones(2)}, facts)
    with pytest.raises(UserError, match="a is no longer finite"):
        state.write_state(file, {"a": torch.full((2,), torch.nan)}, facts)

    def fail(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(state, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        state.write_state(file, {"a": torch.zeros(2)}, facts)
    assert torch.equal(state.read_state(file, facts)["a"], torch.ones(2))


def test_the_state_is_safetensors_with_its_facts_in_json(tmp_path):
    run(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "train_state.safetensors", framework="pt") as saved:
        facts = json.loads(saved.metadata()["facts"])
    assert [path.name for path in tmp_path.iterdir()] == ["train_state.safetensors"]
    assert facts["settings"]["steps"] == 40
