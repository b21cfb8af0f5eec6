"""Random numbers that are drawn before they are asked for: the same, in the thread that reads batches."""

import threading
from itertools import repeat

import pytest
import torch
from recorded import FixedBatches, run, student_of

from fewstep import noises, randomness
from fewstep.methods.sim import Sim
from fewstep.prefetch import Prefetched
from fewstep.settings import TrainSettings
from fewstep.training.networks import HELD_OUT_SEED, Training
from fewstep.training.reader import AHEAD

KEYS = randomness.keys_of(11, 0, 10)


def asked(keys):
    """Return what a loss might ask for."""
    law = noises.StudentT(5.0)
    return randomness.uniforms("a", keys), law.draw("b", keys, (3,)), randomness.uniforms("c", keys)


@pytest.fixture
def drawn(monkeypatch):
    """Return the threads and streams of all that is drawn, for other samples than those held out."""
    found, draw = [], randomness._generators

    def watched(stream, keys):
        if int(keys[0, 0]) != HELD_OUT_SEED:
            found.append((threading.current_thread().name, stream))
        return draw(stream, keys)

    monkeypatch.setattr(randomness, "_generators", watched)
    return found


def test_numbers_that_were_drawn_before_are_those_that_are_drawn_when_asked_for(drawn):
    wanted, expected = set(), asked(KEYS)
    first = Prefetched(KEYS, wanted)
    with first.offered(KEYS, slice(0, 10)):
        assert all(map(torch.equal, asked(KEYS), expected))
    prefetched = Prefetched(KEYS, wanted)
    drawn.clear()
    for rows in (slice(0, 4), slice(4, 10)):
        keys = KEYS[rows]
        with prefetched.offered(keys, rows):
            assert all(torch.equal(got, all_[rows]) for got, all_ in zip(asked(keys), expected, strict=True))
    assert not drawn
    with prefetched.offered(KEYS, slice(0, 10)):
        assert torch.equal(randomness.uniforms("a", KEYS + 1), randomness.uniforms("a", KEYS + 1))
    assert len(drawn) == 2  # keys of others are none of its own
    randomness.uniforms("a", KEYS)
    assert len(drawn) == 3  # and after the context nothing is offered


def test_a_training_draws_in_the_thread_what_its_losses_asked_for_before(tmp_path, drawn):
    method = Sim(fake_warmup=0)
    model = student_of(method)
    run(
        tmp_path,
        method=method,
        model=model,
        load=lambda name: student_of(method),
        settings=TrainSettings(steps=12, batch=4),
    )
    streams = [stream for name, stream in drawn if name == "MainThread" and stream.startswith("train.")]
    # What is read during the first step's passes can't know yet what its losses ask for.
    assert all(1 <= streams.count(f"train.{of}.noise") <= 1 + AHEAD for of in ("fake", "compare"))
    assert {stream for name, stream in drawn if name == "reader"} >= set(streams)


def test_what_is_drawn_ahead_changes_no_weight():
    def trained(prepared_by):
        method = Sim(fake_warmup=0)
        settings = TrainSettings(steps=4, batch=4)
        training = Training(
            method, student_of(method), lambda name: student_of(method), settings, 0, torch.device("cpu")
        )
        for step, make in zip(range(4), prepared_by, strict=False):
            prepared = training.prepare(step, *FixedBatches(4)[step])
            training.update([(batch, make(numbers)) for batch, numbers in prepared])
        return torch.cat([weight.detach().flatten() for weight in training.modules["student"].parameters()])

    never = trained(repeat(lambda numbers: Prefetched(numbers.keys, set())))
    assert torch.equal(trained(repeat(lambda numbers: numbers)), never)
