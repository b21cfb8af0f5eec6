"""Of the stages that are ready, the one with the longest way to the end begins first."""

from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from flows import pipeline
from flows.planning import slots
from flows.planning.order import urgency

UPSTREAM = {
    "trajectories": (),
    "boss-8": ("trajectories",),
    "straight-4": ("trajectories",),
    "boss-4": ("straight-4",),
    "evaluate": ("boss-8", "boss-4"),
}


def test_a_stage_counts_the_longest_chain_that_begins_with_it_and_then_the_stages_before_it():
    assert urgency(UPSTREAM, {}) == {
        "trajectories": (4, 0),
        "straight-4": (3, 1),
        "boss-8": (2, 1),
        "boss-4": (2, 2),
        "evaluate": (1, 4),
    }
    assert urgency({}, {}) == {}


def test_a_stage_counts_the_seconds_it_took_and_a_new_one_the_mean():
    seconds = {"trajectories": 10.0, "boss-8": 100.0, "straight-4": 10.0, "evaluate": 40.0, "gone": 1e6}
    found = urgency(UPSTREAM, seconds)
    assert {name: chain for name, (chain, _) in found.items()} == {
        "evaluate": 40.0,
        "boss-4": 40.0 + 40.0,
        "straight-4": 10.0 + 80.0,
        "boss-8": 140.0,
        "trajectories": 150.0,
    }


@pytest.mark.parametrize(
    ("at_once", "seconds", "order"),
    [
        ("1", {}, ["trajectories", "straight-4", "boss-4", "boss-8", "evaluate"]),
        ("1", {"boss-8": 9.0}, ["trajectories", "straight-4", "boss-4", "boss-8", "evaluate"]),
        ("1", {"boss-8": 9.0, "boss-4": 1.0}, ["trajectories", "boss-8", "straight-4", "boss-4", "evaluate"]),
        ("9", {}, ["trajectories", "straight-4", "boss-8", "boss-4", "evaluate"]),
    ],
)
def test_the_flow_starts_the_most_urgent_stage_when_a_slot_is_free(monkeypatch, at_once, seconds, order):
    monkeypatch.setenv("FEWSTEP_STAGES_AT_ONCE", at_once)
    assert begun_by_the_flow(monkeypatch, UPSTREAM, seconds) == order


@pytest.mark.parametrize("names", [("b", "a", "c"), ("c", "b", "a")])
def test_equally_urgent_stages_begin_in_the_order_of_the_settings(monkeypatch, names):
    assert begun_by_the_flow(monkeypatch, dict.fromkeys(names, ()), {}) == [*names]


def begun_by_the_flow(monkeypatch, upstream, seconds):
    begun, ended = [], SimpleQueue()

    def submit(stage, **_):
        begun.append(stage)
        return SimpleNamespace(add_done_callback=ended.put, wait=lambda: None, state=stage)

    def end_the_first(*_):
        ended.get()(None)  # tells the queue that its stage is done
        return next_finished(*_)

    next_finished = pipeline.next_finished
    monkeypatch.setattr(pipeline, "next_finished", end_the_first)
    task = SimpleNamespace(with_options=lambda name: SimpleNamespace(submit=submit))
    monkeypatch.setattr(pipeline, "bring_up_to_date", task)
    nothing = slots.WorkAhead([], Path(), print)
    states = pipeline.run_stages({name: name for name in upstream}, upstream, seconds, nothing)
    assert states == {name: name for name in upstream}
    return begun
