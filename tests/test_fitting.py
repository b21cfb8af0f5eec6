"""Networks that are given fewer samples at a time where memory does not suffice."""

import pytest
import torch
from torch import nn

from fewstep.fitting import Fitting
from fewstep.training.memory import OutOfMemoryError


class Room(nn.Module):
    """Adds up all inputs of a sample; has room for some samples at a time."""

    def __init__(self, most, error=None):
        super().__init__()
        self.most, self.calls = most, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nof 8")

    def forward(self, x, t, *, label, guidance=1.0, shared):
        self.calls.append(len(x))
        if len(x) > self.most:
            raise self.error
        assert len(x) == len(t) == len(label)
        return x * guidance + t[:, None] + label[:, None] + shared.sum()


def given(count):
    x = torch.arange(2.0 * count).reshape(count, 2)
    conditions = {"label": torch.arange(count), "guidance": 2.0, "shared": torch.ones(1, 3)}
    return (x, torch.linspace(0, 1, count)), conditions


@pytest.mark.parametrize("count", [1, 5, 8])
def test_calls_are_halved_until_they_fit_and_stay_so(count):
    told = []
    fitting, whole = Fitting(Room(2), told.append), Room(100)
    inputs, conditions = given(count)
    for _ in range(2):
        assert torch.equal(fitting(*inputs, **conditions), whole(*inputs, **conditions))
    wanted = {1: [1, 1], 5: [5, 2, 2, 1, 2, 2, 1], 8: [8, 4] + 8 * [2]}
    assert fitting.network.calls == wanted[count]
    assert fitting.rows == (None if count == 1 else 2)
    assert len(told) == {1: 0, 5: 1, 8: 2}[count]
    if told:
        assert told[0].startswith(
            f"out of memory (CUDA out of memory. Tried to allocate 2 GiB) with {count} samples in a call"
        )
        assert "With batch: 2 in the settings" in told[-1]


def test_a_sample_that_does_not_fit_is_one_message():
    inputs, conditions = given(3)
    with pytest.raises(OutOfMemoryError, match="with one sample in a call of a network; take precision"):
        Fitting(Room(0), print)(*inputs, **conditions)


def test_other_errors_are_not_taken_for_too_little_memory():
    inputs, conditions = given(3)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Fitting(Room(2, RuntimeError("shapes do not match")), print)(*inputs, **conditions)
