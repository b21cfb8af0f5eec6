"""A watched training ends with the weights of its best look, whatever happens on the way."""

import re
from dataclasses import dataclass

import pytest
import torch
from recorded import FixedBatches, run
from safetensors.torch import load_file
from watching import SETTINGS, STEPS, Listener, Pass, gaussian_monitor, jumping, shifting, watched

from fewstep.checkpoint import model_digest, save_model
from fewstep.errors import UserError
from fewstep.metrics.monitor import Look
from fewstep.training.method import Needs
from fewstep.training.watch import collapse


def test_the_best_look_is_picked_and_reported(tmp_path):
    listener = Listener()
    trained = watched(tmp_path, progress=listener)
    told = {s: v["monitor.fd"] for s, v in listener.measured if "monitor.fd" in v}
    assert list(told) == list(range(0, STEPS + 1, 4))
    assert trained.watched.picked.step == min(told, key=told.get) == 12  # 12 * 0.3 - the average's lag
    assert trained.watched.picked.fd == min(told.values())
    assert trained.watched.looks == 11
    assert gaussian_monitor(mean=3.0).look(trained.model, step=12) == trained.watched.picked
    assert trained.held_out_loss == pytest.approx(-trained.model.network.by.item())
    assert {"monitor.recall", "monitor.shares"} <= listener.measured[1][1].keys()


def test_without_a_monitor_it_ends_with_the_last_weights(tmp_path):
    trained = run(tmp_path, method=Pass(), model=shifting(), settings=SETTINGS)
    assert trained.watched is None
    assert trained.model.network.by.item() > 10


@pytest.mark.parametrize(("looks", "every"), [(3, 14), (40, 1), (1000, 1), (1, 40)])
def test_looks_are_spread_evenly_and_the_end_is_always_looked_at(tmp_path, looks, every):
    listener = Listener()
    watched(tmp_path, progress=listener, looks=looks)
    steps = [step for step, values in listener.measured if "monitor.fd" in values]
    assert steps == [*range(0, STEPS, every), STEPS]


def test_a_training_ends_early_when_no_look_is_better_for_long(tmp_path):
    listener = Listener()
    trained = watched(tmp_path, progress=listener, patience=3)
    assert trained.watched.picked.step == 12
    assert trained.watched.looks == 7
    assert listener.advanced == 24
    again = watched(tmp_path, progress=(second := Listener()), patience=3)  # from its state, without a step
    assert second.advanced == 0
    assert again.watched == trained.watched
    assert torch.equal(again.model.network.by, trained.model.network.by)


@dataclass(frozen=True)
class Stopping(FixedBatches):
    stop: int = 0

    def __getitem__(self, step):
        if step == self.stop:
            raise InterruptedError
        return super().__getitem__(step)


@pytest.mark.parametrize("stops", [(0, 1), (11, 12, 13), (23,)])
@pytest.mark.parametrize("settings", [{"patience": 3}, {}, {"retreat": 1.5}])
def test_stopped_anywhere_it_ends_with_the_same_bytes(tmp_path, monkeypatch, stops, settings):
    whole = watched(tmp_path / "whole", **settings)
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    for stop in stops:
        with pytest.raises(InterruptedError):
            watched(tmp_path / "cut", batches=Stopping(8, stop=stop), **settings)
    cut = watched(tmp_path / "cut", **settings)
    assert cut.watched == whole.watched
    states = [(tmp_path / name / "train_state.safetensors").read_bytes() for name in ("cut", "whole")]
    assert states[0] == states[1]
    for name, trained in (("cut", cut), ("whole", whole)):
        save_model(tmp_path / name / "model", trained.model)
    assert model_digest(tmp_path / "cut/model") == model_digest(tmp_path / "whole/model")


def test_the_state_of_another_monitor_is_refused(tmp_path):
    watched(tmp_path)
    with pytest.raises(UserError, match="another monitor; delete it"):
        watched(tmp_path, patience=2)
    assert "watch/best/student/network/network.by" in load_file(tmp_path / "train_state.safetensors")


def test_a_collapse_is_named_once_with_what_to_try(tmp_path):
    trained = watched(tmp_path, progress=(listener := Listener()))
    assert listener.notes == [trained.watched.collapse]
    assert (
        "the student collapsed by step 16: its share of one kind of sample is off by"
        in trained.watched.collapse
    )
    assert "try a lower learning_rate" in trained.watched.collapse


@dataclass(frozen=True, kw_only=True)
class PassFlowMap(Pass):
    needs = Needs(stream="noise", second_time=True)


def test_a_student_of_any_number_that_collapses_with_one_step_alone_is_told(tmp_path):
    """Its samples of four steps come to the data at step 20; those of one step are there at 10, and go on."""
    ends = {}
    for nfe in ((1,), (4,), None):
        trained = watched(tmp_path / str(nfe), method=PassFlowMap(), model=jumping(), mean=6.0, nfe=nfe)
        ends[nfe] = trained.watched
    assert ends[(1,)].picked.step <= ends[None].picked.step < ends[(4,)].picked.step
    assert "the student collapsed by step" in ends[(1,)].collapse
    one, both, four = (int(re.search(r"by step (\d+)", ends[nfe].collapse)[1]) for nfe in ((1,), None, (4,)))
    assert one <= both < four


def test_a_training_that_gets_worse_goes_back_and_on_with_half_its_rates(tmp_path):
    away = watched(tmp_path / "away", mean=4.0)
    listener = Listener()
    back = watched(tmp_path / "back", mean=4.0, progress=listener, retreat=1.5)
    rates = {step: values["learning_rate"] for step, values in listener.measured if "learning_rate" in values}
    assert back.watched.retreats == len(listener.notes) > 1
    assert listener.notes[0].startswith("at step 16 the distance to the data is ")
    assert listener.notes[0].endswith("at step 12: back to that, with the learning rates times 0.5")
    assert rates[STEPS] == rates[0] / 2**back.watched.retreats
    assert back.watched.picked.fd < away.watched.picked.fd  # it found what lies between two looks
    assert back.watched.collapse is None
    assert away.watched.retreats == 0


def test_the_best_weights_are_not_changed_by_later_steps(tmp_path):
    """One step before a look at the best weights, all is as it was when they were first looked at."""
    trained = watched(tmp_path, retreat=1.01)
    assert trained.watched.retreats > 2
    assert (
        gaussian_monitor(mean=3.0).look(trained.model, step=trained.watched.picked.step)
        == trained.watched.picked
    )


def test_a_training_that_only_gets_worse_ends_as_it_started(tmp_path):
    trained = watched(tmp_path, mean=-4.0, retreat=1.00001)
    assert trained.watched.picked.step == 0
    assert trained.model.network.by.item() == 0
    assert trained.loss == trained.held_out_loss  # it has no step whose loss it could tell


@pytest.mark.parametrize("lost", [15, 22])
def test_a_watched_training_that_diverges_ends_with_its_best_look(tmp_path, lost):
    trained = watched(tmp_path, method=Pass(lost=lost))
    assert trained.watched.picked.step == 12
    assert f"not finite 10 updates in a row, up to step {lost + 9}" in trained.watched.collapse
    assert gaussian_monitor(mean=3.0).look(trained.model, step=12) == trained.watched.picked


def look(step, fd=1.0, recall=0.9, shares=0.1):
    return Look(step, fd, recall, shares)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"fd": 5.1}, "by step 8: its distance to the data rose from 1 to 5.1;"),
        ({"recall": 0.44}, "by step 8: recall fell from 0.90 to 0.44:"),
        ({"shares": 0.36}, "by step 8: its share of one kind of sample is off by 0.36, and was by 0.10;"),
    ],
)
def test_a_collapse_is_a_look_far_worse_than_the_best_before(later, message):
    poor = look(0, fd=50.0, recall=0.0, shares=0.9)  # as the teacher in one call may be
    fine = [poor, look(4), look(8, fd=4.9, recall=0.46, shares=0.34)]
    assert collapse(fine) is None
    assert message in collapse([poor, look(4), look(8, **later), look(12)])
