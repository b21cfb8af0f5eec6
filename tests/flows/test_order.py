"""Of the stages that are ready, the one with the longest chain of stages behind it begins first."""

from types import SimpleNamespace

from flows import pipeline
from flows.planning.order import stages_behind

UPSTREAM = {
    "trajectories": (),
    "boss-8": ("trajectories",),
    "straight-4": ("trajectories",),
    "boss-4": ("straight-4",),
    "evaluate": ("boss-8", "boss-4"),
}


def test_a_stage_counts_the_longest_chain_that_waits_for_it():
    behind = {"trajectories": 3, "straight-4": 2, "boss-8": 1, "boss-4": 1, "evaluate": 0}
    assert stages_behind(UPSTREAM) == behind
    assert stages_behind({}) == {}


def test_the_flow_begins_with_the_longest_chain(monkeypatch):
    begun = []

    def submit(turn, **_):
        begun.append(turn)
        return SimpleNamespace(add_done_callback=lambda tell: tell(None), wait=lambda: None, state=turn)

    task = SimpleNamespace(with_options=lambda name: SimpleNamespace(submit=submit))
    monkeypatch.setattr(pipeline, "bring_up_to_date", task)
    states = pipeline.take_turns({name: name for name in UPSTREAM}, UPSTREAM)
    assert begun == ["trajectories", "straight-4", "boss-8", "boss-4", "evaluate"]
    assert states == {name: name for name in UPSTREAM}
