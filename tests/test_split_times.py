"""A transformer whose first blocks see the start of a step, and the others its end."""

import pytest
import torch

from fewstep import randomness
from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.lora import with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.meanflow import Meanflow
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate
from fewstep.timing import with_second_time, with_slow_times
from fewstep.training.networks import Training

SHAPE, DEPTH, SAMPLES = (1, 4, 4), 4, 5


def teacher(name="dit", **config):
    architecture = {"name": name, "width": 16} | ({"depth": DEPTH, "heads": 2} if name == "dit" else {})
    model = build(ModelConfig(architecture=architecture, shape=SHAPE, classes=3, **config), seed=0)
    with torch.no_grad():  # a fresh network's output is zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def asked():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SAMPLES, *SHAPE, generator=generator)
    t, until = torch.rand(2, SAMPLES, generator=generator).sort(dim=0).values
    return x, t, until, {"label": torch.tensor([0, 1, 2, 3, 1])}


@pytest.mark.parametrize("time_scale", [1.0, 1000.0])
@pytest.mark.parametrize("split_after", [1, 3, DEPTH])
def test_a_step_of_no_length_is_the_teachers_velocity_and_others_are_not(split_after, time_scale):
    model, (x, t, until, label) = teacher(time_scale=time_scale), asked()
    split = with_second_time(model, seed=3, split_after=split_after)
    assert split.config.velocity_until == "any"
    assert split.state_dict().keys() == model.state_dict().keys()
    plain = model(x, t, **label)
    assert torch.equal(split(x, t, **label), plain)
    assert torch.equal(split(x, t, until=t, **label), plain)
    apart = (split(x, t, until=until, **label) - plain).flatten(1).abs().amax(dim=1)
    assert apart.min() > 1e-4


@pytest.mark.parametrize("split_after", [1, 3, DEPTH])
def test_first_blocks_see_the_start_and_those_after_them_the_end(split_after):
    split, (x, t, until, label) = with_second_time(teacher(), seed=3, split_after=split_after), asked()
    given = []
    for part in (*split.network.blocks, split.network.final_layer):
        part.register_forward_pre_hook(lambda part, args: given.append(args[1]))
    split(x, t, until=until, **label)
    split(x, until, **label)
    one_time = given[DEPTH + 1 :]
    assert all(torch.equal(seen, one_time[0]) for seen in given[split_after : DEPTH + 1])
    assert all(not torch.allclose(seen, one_time[0]) for seen in given[:split_after])
    given.clear()
    split(x, t, **label)
    first = given[0]
    given.clear()
    split(x, t, until=until, **label)
    assert all(torch.equal(seen, first) for seen in given[:split_after])


def test_a_model_directory_keeps_the_split(tmp_path):
    split, (x, t, until, label) = with_second_time(teacher(), seed=3, split_after=2), asked()
    save_model(tmp_path, split)
    again = load_model(tmp_path)
    assert again.config.architecture["split_after"] == 2
    assert torch.equal(again(x, t, until=until, **label), split(x, t, until=until, **label))


def test_both_times_count_and_their_derivatives_are_those_of_quotients():
    split = with_slow_times(with_second_time(teacher(), seed=3, split_after=2), seed=3)
    assert split.config.architecture["split_after"] == 2
    x, t, until, label = asked()
    times, step = torch.stack([t, until]).requires_grad_(), 1e-2

    def total(times):
        return split(x, times[0], until=times[1], **label).sum()

    (exact,) = torch.autograd.grad(total(times), times)
    for which, found in enumerate(exact.sum(dim=1)):
        move = torch.zeros(2, 1).index_fill(0, torch.tensor([which]), step)
        quotient = (total(times + move) - total(times - move)) / (2 * step)
        assert found.item() == pytest.approx(quotient.item(), rel=0.02)
        assert abs(found) > 0.1


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["weights", "adapter"])
@pytest.mark.parametrize("method", [FlowMap(), Meanflow(exact=True)], ids=["flow map", "meanflow"])
def test_it_learns_to_take_steps(method, lora):
    student = with_slow_times(with_second_time(teacher(), seed=3, split_after=2), seed=3)
    if lora is not None:
        student = with_lora(student, lora, seed=0)
    training = Training(
        method, student, {}.get, TrainSettings(steps=40, learning_rate=3e-3), 0, torch.device("cpu")
    )
    keys = randomness.keys_of(0, 0, 16)
    noise, data = randomness.noises("noise", keys, SHAPE), randomness.noises("data", keys, SHAPE)
    times = torch.linspace(0, 1, 5).expand(16, -1)
    states = noise[:, None] + times[..., None, None, None] * (data - noise)[:, None]
    batch = {"noise": noise, "data": data, "states": states, "times": times, "label": keys[:, 1] % 3}
    losses, start, end = [], times[:, 0], times[:, -1]
    for _ in range(40):
        training.take_step(batch, keys)
        with torch.no_grad():
            jump = training.modules["student"](noise, start, until=end, label=batch["label"])
            losses.append((jump - (data - noise)).square().mean())
    assert losses[-1] < 0.9 * losses[0]
    flow = as_flow(training.modules["student"].eval())
    with torch.no_grad():
        assert integrate(flow, noise, uniform(2), label=batch["label"]).nfe == 2


@pytest.mark.parametrize("split_after", [0, DEPTH + 1])
def test_a_split_outside_of_the_blocks_is_refused(split_after):
    with pytest.raises(UserError, match=rf"split_after {split_after} of 4 blocks; set it from 1 to 4"):
        with_second_time(teacher(), seed=0, split_after=split_after)


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_a_network_without_such_blocks_is_refused(name):
    with pytest.raises(
        UserError, match=f"model {name} can't be given split after: its build does not take it"
    ):
        with_second_time(teacher(name), seed=0, split_after=1)
