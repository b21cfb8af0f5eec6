"""A velocity to search must be a pure function: nothing given is changed, remembered or shared."""

import re

import pytest
import torch
from torch import nn

import fewstep
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, as_flow
from fewstep.model import Model, ModelConfig
from fewstep.searching.checked import Checked

NOISE = torch.randn(128, 2, generator=torch.Generator().manual_seed(0))


class Counting:
    """Answers more and more."""

    calls = 0

    def __call__(self, x, t):
        self.calls += 1
        return x * (1 + 0.1 * self.calls)


class Remembering:
    """Answers with what it worked out the call before, as caches of features do."""

    last = None

    def __call__(self, x, t):
        fresh = x * (1 + t[:, None])
        last, self.last = self.last, fresh
        return fresh.clone() if last is None or last.shape != x.shape else last.clone()


class OneBuffer:
    """Answers in one tensor of its own, as recorded graphs do."""

    buffer = torch.empty(128, 2)

    def __call__(self, x, t):
        return torch.mul(x, 1 + t[:, None], out=self.buffer[: len(x)])


class TwoBuffers(OneBuffer):
    """Answers in two of them by turns."""

    calls = 0

    def __init__(self):
        self.buffers = [torch.empty(128, 2), torch.empty(128, 2)]

    def __call__(self, x, t):
        self.calls += 1
        self.buffer = self.buffers[self.calls % 2]
        return super().__call__(x, t)


def by_numpy(x, t):
    x.numpy()[:] *= 0.5
    return x.clone()


IMPURE = [
    (
        lambda x, t: x.mul_(0.5),
        "at t = 0 the model changed the state that it was given; let it compute",
    ),
    (lambda x, t: x.copy_(x + 1).clone(), "at t = 0 the model changed the state that it was given"),
    (lambda x, t: nn.functional.relu(x, inplace=True) + 1, "the model changed the state that it was given"),
    (by_numpy, "the model changed the noise that it was given; let it compute a new tensor, also by numpy"),
    (lambda x, t: x, "at t = 0 the model returned the state that it was given, and not a new tensor"),
    (lambda x, t: x.view(-1, 2), "at t = 0 the model returned the state that it was given"),
    (OneBuffer(), "the model answers twice in the same memory, so that one answer overwrites the other"),
    (TwoBuffers(), "the model answers twice in the same memory"),
    (Counting(), "the model is not deterministic: asked twice at t = 0"),
    (Remembering(), "the model is not deterministic: asked twice at t = 0"),
    (nn.Dropout(), "the model is not deterministic: asked twice at t = 0"),
    (nn.BatchNorm1d(2), "at t = 0 a sample's velocity depends on the others in its batch, by up to"),
    (lambda x, t: x - x.mean(0), "at t = 0 a sample's velocity depends on the others in its batch"),
]


def taking_time(model):
    return (lambda x, t: model(x)) if isinstance(model, nn.Module) else model


@pytest.mark.parametrize(("model", "told"), IMPURE)
@pytest.mark.parametrize("given", [taking_time, lambda model: FieldFlow(taking_time(model))])
def test_what_is_no_pure_function_is_not_searched(model, told, given):
    with pytest.raises(UserError, match=re.escape(told)):
        fewstep.search(given(model), NOISE.clone(), budgets=[2], method="bellman")


class Spoiling(nn.Module):
    def forward(self, x, t, label=None):
        return x.add_(t[:, None])


def test_a_model_whose_network_changes_its_input_is_not_searched():
    model = Model(ModelConfig(architecture={"name": "mlp"}, shape=(2,)), Spoiling())
    for asked in (model, as_flow(model)):
        with pytest.raises(UserError, match="changed the state that it was given"):
            fewstep.search(asked, NOISE.clone(), budgets=[2], method="bellman")


def test_a_condition_that_is_changed_is_named():
    flow = Checked(FieldFlow(lambda x, t, shift: x * shift.add_(1)))
    with pytest.raises(UserError, match=r"at t = 0\.25 the model changed the shift that it was given"):
        flow(torch.ones(2, 1), 0.25, shift=torch.ones(2, 1))


def test_a_changed_input_is_found_in_inference_mode_too():
    with torch.inference_mode(), pytest.raises(UserError, match="changed the noise that it was given"):
        fewstep.search(lambda x, t: x.mul_(0.5).clone(), NOISE.clone(), budgets=[2], method="bellman")


def test_a_module_in_evaluation_is_pure():
    norm = nn.BatchNorm1d(2).eval()
    assert (
        fewstep.search(lambda x, t: norm(x) * t[:, None], NOISE, budgets=[2], method="bellman")[2].steps == 2
    )
