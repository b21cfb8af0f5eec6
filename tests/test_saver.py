"""When a training is saved, what that costs it, and what the file holds; resuming is in test_resume.py."""

import threading
from dataclasses import dataclass

import forked
import pytest
import torch
import trainings
from recorded import FixedBatches, Recorder, run, student
from safetensors import SafetensorError
from safetensors.torch import load_file

from fewstep.errors import UserError
from fewstep.methods.flow_matching import FlowMatching
from fewstep.settings import TrainSettings
from fewstep.training import saver as savers
from fewstep.training import state
from fewstep.training.method import Net
from fewstep.training.networks import Training
from fewstep.training.watch import Watch

SETTINGS = TrainSettings(steps=12, batch=4)
FILE = "train_state.safetensors"


def training(method=None):
    return Training(method or FlowMatching(), student(), {}.get, SETTINGS, 0, torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch):
    """The time that a saver sees, in a list of one number."""
    now = [0.0]
    monkeypatch.setattr(savers.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("asked", "cost", "interval"), [("20", 0.1, 20.0), ("20", 3.0, 97.0), ("0", 3.0, 0.0)]
)
def test_the_interval_follows_what_a_save_costs(tmp_path, monkeypatch, clock, asked, cost, interval):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", asked)
    saves = []
    monkeypatch.setattr(savers, "_write", lambda *everything: saves.append(everything) or cost)
    trained = training()
    with savers.Saver(tmp_path / FILE, trained, Watch(None, trained, Recorder())) as saver:
        assert saver.interval == float(asked)  # the first save comes before its cost is known
        saver.save()
        saver._writing.result()
        clock[0] = 21 if interval > 21 else 0  # it is time, but for a cost that is seen only now
        saver.before_step()
        assert saver.interval == pytest.approx(interval)
        if interval:
            assert cost / (cost + interval) <= savers.SHARE + 1e-9
            clock[0] = interval - 1
            saver.before_step()
            assert len(saves) == 1
            clock[0] = interval + 1
            saver.before_step()
    assert len(saves) == 2


def test_steps_go_on_while_a_save_is_written_and_none_is_begun_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "1e-9")
    written, going_on, write = [], threading.Event(), savers.write_state

    def slowly(file, tensors, facts):
        assert going_on.wait(30)  # until a step that comes after the copy
        written.append(int(tensors["step"]))
        write(file, tensors, facts)

    @dataclass(frozen=True)
    class Watched(FixedBatches):
        def __getitem__(self, step):
            if step == 11:
                going_on.set()
            return super().__getitem__(step)

    monkeypatch.setattr(savers, "write_state", slowly)
    run(tmp_path, settings=SETTINGS, batches=Watched(4))
    assert (written[0], written[-1]) == (0, 12)
    assert int(load_file(tmp_path / FILE)["step"]) == 12


def test_a_save_in_progress_is_finished_when_a_training_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "1e-9")
    write = savers.write_state
    interrupted = threading.Event()

    def slowly(*everything):
        interrupted.wait(30)
        write(*everything)

    @dataclass(frozen=True)
    class Interrupted(FixedBatches):
        def __getitem__(self, step):
            if step == 3:
                interrupted.set()
                raise KeyboardInterrupt
            return super().__getitem__(step)

    monkeypatch.setattr(savers, "write_state", slowly)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings=SETTINGS, batches=Interrupted(4))
    assert int(load_file(tmp_path / FILE)["step"]) == 0


def test_a_full_disk_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "1e-9")

    def full(*everything):
        raise SafetensorError("I/O error: No space left on device (os error 28)")  # as safetensors says it

    @dataclass(frozen=True)
    class Soon(FixedBatches):
        def __getitem__(self, step):
            assert step < 1000
            return super().__getitem__(step)

    monkeypatch.setattr(savers, "write_state", full)
    with pytest.raises(SafetensorError, match="No space left"):
        run(tmp_path, settings=TrainSettings(steps=10_000, batch=4), batches=Soon(4))


def test_the_error_that_ended_a_training_is_raised_and_not_that_of_a_concurrent_save(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "1e-9")
    interrupted = threading.Event()

    def full(*everything):
        interrupted.wait(30)
        raise OSError(28, "No space left on device")

    @dataclass(frozen=True)
    class Interrupted(FixedBatches):
        def __getitem__(self, step):
            interrupted.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(savers, "write_state", full)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings=SETTINGS, batches=Interrupted(4))


def test_leftovers_of_a_killed_save_are_removed_by_the_next(tmp_path):
    for _ in range(2):
        assert forked.end_of(forked.begin(trainings.killed_in_a_save, tmp_path / FILE)) == 9
    assert not (tmp_path / FILE).exists()
    state.write_state(tmp_path / FILE, {"a": torch.zeros(2)}, {})
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@dataclass(frozen=True, kw_only=True)
class FirstLayerFrozen(FlowMatching):
    """A student of which one layer stays, as the base of an adapter does."""

    def networks(self, student, load):
        student.network.first.requires_grad_(False)
        return {"student": Net(student, ema=True, averages={"slow": 0.9})}


def test_frozen_weights_are_held_once_and_are_not_in_the_state(tmp_path):
    method, settings = FirstLayerFrozen(), TrainSettings(steps=6, batch=4)
    trained = run(tmp_path / "whole", method=method, settings=settings)
    state = load_file(tmp_path / "whole" / FILE)
    assert not [name for name in state if "network.first." in name]
    assert [name for name in state if "network.last.weight" in name]
    first = student().network.first.weight
    assert torch.equal(trained.model.network.first.weight, first)

    made = training(method)
    trainee = made.trainees["student"]
    for average in (trainee.average, trainee.averages["slow"]):
        assert average.network.first.weight is trainee.module.network.first.weight
        assert average.network.last.weight is not trainee.module.network.last.weight
    made.restore(state)
    again = made.tensors()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_a_save_reuses_the_memory_of_the_one_before(tmp_path):
    trained = training()
    name = next(name for name, tensor in trained.tensors().items() if tensor.dim() == 2)
    with savers.Saver(tmp_path / FILE, trained, Watch(None, trained, Recorder())) as saver:
        saver.save()
        room = saver._room[name].data_ptr()
        with torch.no_grad():
            trained.tensors()[name].add_(1)
        saver.save()
        assert saver._room[name].data_ptr() == room
        saver._writing.result()
        assert torch.equal(load_file(tmp_path / FILE)[name], trained.tensors()[name])
        with torch.no_grad():
            trained.tensors()[name].add_(1)
        assert not torch.equal(saver._room[name], trained.tensors()[name])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_not_written(tmp_path, wrong):
    tensors = {
        "none": torch.zeros(0),
        "count": torch.tensor(3),
        "flag": torch.tensor(True),
        "w": torch.ones(5),
    }
    state.write_state(tmp_path / FILE, tensors, {})
    before = (tmp_path / FILE).read_bytes()
    for place in (0, 4):
        tensors["w"] = torch.ones(5).index_fill(0, torch.tensor(place), wrong)
        with pytest.raises(UserError, match="w is no longer finite"):
            state.write_state(tmp_path / FILE, tensors, {})
    assert (tmp_path / FILE).read_bytes() == before
