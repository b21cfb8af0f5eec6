"""The profile of a training: what it tells, and that it changes nothing."""

import gzip
import json

import pytest
import torch
from recorded import Recorder, TwoNetworks, run, student

from fewstep.errors import UserError
from fewstep.settings import TrainSettings
from fewstep.training import phases
from fewstep.training.phases import PHASES, Clock, phase, timed_by
from fewstep.training.reader import Reader

SETTINGS = TrainSettings(steps=12, batch=8)
STATE = "train_state.safetensors"


def trained(state, settings=SETTINGS, **options):
    recorder = Recorder()
    return run(state, settings=settings, progress=recorder, **options), recorder


def ranges(trace):
    """Return the names of the ranges of a trace, with how often they are there."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return {name: names.count(name) for name in names}


def test_a_profile_has_a_table_and_a_trace_and_changes_no_byte(tmp_path, monkeypatch):
    plain, _ = trained(tmp_path / "plain")
    monkeypatch.setenv("FEWSTEP_PROFILE", "4")
    profiled, recorder = trained(tmp_path / "profiled", profile=tmp_path / "profile")
    states = [(tmp_path / name / STATE).read_bytes() for name in ("plain", "profiled")]
    assert states[0] == states[1]
    assert (profiled.loss, profiled.held_out_loss) == (plain.loss, plain.held_out_loss)
    table = (tmp_path / "profile/profile.txt").read_text()
    for name in (*PHASES[:-1], "other", "step", "a save"):
        assert f"\n{name} " in table
    assert table.startswith("profile of 4 steps, up to step 7, of process 1 of 1 on cpu")
    assert "aten::addmm" in table
    found = ranges(tmp_path / "profile/trace.json.gz")
    assert {name: found[name] for name in ("data", "optimiser", "average", "backward", "save")} == {
        "data": 4,
        "optimiser": 4,
        "average": 4,
        "backward": 4,
        "save": 1,
    }
    (note,) = recorder.notes
    assert str(tmp_path / "profile/profile.txt") in note


def test_the_phases_of_a_step_do_not_overlap(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_PROFILE", "5")
    method, teacher = TwoNetworks(), student(seed=9)
    trained(tmp_path, method=method, load={"teacher": teacher}.get)
    lines = (tmp_path / "profile/profile.txt").read_text().splitlines()
    rows = lines[lines.index(f"{'phase':10} {'ms a step':>10} {'share':>6}") + 1 :]
    times = {line.split()[0]: float(line.split()[1]) for line in rows[: len(PHASES) + 1]}
    known = sum(times[name] for name in (*PHASES[:-1], "other"))
    assert known == pytest.approx(times["step"], abs=0.1)
    assert min(times.values()) >= 0


@pytest.mark.parametrize(("steps", "taken"), [(1, 1), (2, 2), (4, 4)])
def test_a_short_training_is_recorded_as_far_as_it_goes(tmp_path, monkeypatch, steps, taken):
    monkeypatch.setenv("FEWSTEP_PROFILE", "5")
    trained(tmp_path, TrainSettings(steps=steps, batch=8))
    assert (tmp_path / "profile/profile.txt").read_text().startswith(f"profile of {taken} steps, up to step")


def test_a_training_that_was_done_leaves_no_older_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_PROFILE", "1")
    trained(tmp_path)
    assert (tmp_path / "profile/trace.json.gz").exists()
    trained(tmp_path)  # resumes at its end
    assert not (tmp_path / "profile").exists()


def test_without_the_variable_nothing_is_recorded(tmp_path):
    trained(tmp_path)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("text", ["0", "on"])
def test_a_wrong_number_is_named(tmp_path, monkeypatch, text):
    monkeypatch.setenv("FEWSTEP_PROFILE", text)
    with pytest.raises(UserError, match="FEWSTEP_PROFILE must be a number of steps from 1"):
        trained(tmp_path)


def test_a_clock_times_what_is_entered_under_it_alone(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(phases.time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    with phase("forward"):
        pass
    with timed_by(clock):
        for _ in range(2):
            with phase("backward"):
                pass
    with phase("backward"):
        pass
    assert clock.seconds == {"backward": 2}


@pytest.mark.parametrize(("shares", "shown"), [((1.0, 1.0), True), ((0.06, 0.04), False), ((0, 0.06), True)])
def test_the_share_of_time_that_waits_for_data_is_reported_and_shown_where_it_matters(
    tmp_path, monkeypatch, shares, shown
):
    now = 0.0

    class Slow(Reader):
        """Steps wait a share of a second for what they need, by a clock that stands still otherwise."""

        def __getitem__(self, step):
            nonlocal now
            now += shares[step >= 6]
            return super().__getitem__(step)

    class Listening(Recorder):
        """Sees the rest of a step's second go by."""

        def advance(self, units=1, **values):
            nonlocal now
            now += 1 - shares[self.advanced >= 6]
            super().advance(units, **values)

    monkeypatch.setattr("fewstep.training.loop.time.monotonic", lambda: now)
    monkeypatch.setattr("fewstep.training.loop.Reader", Slow)
    recorder = Listening()
    run(tmp_path, settings=SETTINGS, progress=recorder)
    waits = [values["data_wait"] for _, values in recorder.measured if "data_wait" in values]
    assert waits == pytest.approx([shares[0]] * 6 + [shares[1]] * 6)
    assert recorder.shown.get("data_wait") == (round(shares[1], 2) if shown else None)
    assert "loss" in recorder.shown
