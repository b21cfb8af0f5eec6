"""What every training method promises; a new file in fewstep/methods is tested here by being there."""

import copy
import importlib
import json
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch

from fewstep import grids, noises, randomness, registry
from fewstep.errors import UserError
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN, LAWS
from fewstep.refining import refiner_for
from fewstep.timing import with_second_time, with_slow_times

NAMES = registry.available("fewstep.methods")
SHAPE, STEPS, SEED = (2,), 3, 5


def method_named(name):
    return registry.find("fewstep.methods", name)()


def student(*, second_time=False, slow_times=False, **changes):
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1},
        shape=SHAPE,
        classes=3,
        grid=grids.uniform(STEPS),
    )
    model = build(replace(config, **changes), seed=0)
    if second_time:
        model = with_second_time(model, seed=0)
    if slow_times:
        model = with_slow_times(model, seed=0)
    with torch.no_grad():  # a fresh network's last layer is zero, and so would be most gradients
        for parameter in model.parameters():
            parameter.add_(0.1)
    return model


def student_of(method, **changes):
    """Return a student that the method can train."""
    try:
        method.check_steps(steps := 1 if method.trained_times == "until_1" else STEPS)
    except UserError:
        steps = 1
    grid = grids.uniform(steps)
    needs = method.needs
    if needs.last_velocity:
        return refiner_for(student(**changes), {"name": "mlp", "width": 8, "depth": 1}, seed=0)
    return student(second_time=needs.second_time, slow_times=needs.slow_times, grid=grid, **changes)


def batch_of(n):
    generator = torch.Generator().manual_seed(1)
    times = torch.tensor(grids.uniform(STEPS).times)
    batch = {
        "data": torch.randn(5, *SHAPE, generator=generator),
        "noise": torch.randn(5, *SHAPE, generator=generator),
        "states": torch.randn(5, STEPS + 1, *SHAPE, generator=generator),
        "times": times.expand(5, -1),
        "label": torch.tensor([0, 1, 2, 0, 1]),
    }
    return {name: tensor[:n] for name, tensor in batch.items()}, randomness.keys_of(SEED, 10, 10 + n)


def nets_of(method, model):
    """Return the method's networks, each a little away from where it starts, with something to learn.

    They are in evaluation mode, in which no call changes what the next one gives.
    """
    other = {"classes": model.config.classes, "noise": model.config.noise}
    networks = method.networks(model, lambda which: student(**other))
    for name, net in networks.items():
        with torch.no_grad():
            for parameter in net.module.parameters() if net.trains and name != "student" else ():
                parameter.add_(0.05)
    nets = {name: net.module.eval() for name, net in networks.items()}
    averages = {name: copy.deepcopy(model) for net in networks.values() for name in net.averages}
    return networks, nets | averages


def losses(method, nets, network, n):
    batch, keys = batch_of(n)
    return method.loss(nets, method.prepare_batch(batch, keys, GAUSSIAN), network, 0.5, keys)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_with_gradients_and_the_same_in_any_batch(name):
    method = method_named(name)
    if hasattr(method, "exact"):  # a difference magnifies the rounding, which the size of a batch changes
        method = replace(method, exact=True)
    networks, nets = nets_of(method, student_of(method))
    for network in method.updates(0):
        assert networks[network].trains
        five, three = (losses(method, nets, network, n) for n in (5, 3))
        assert five.shape == (5,)
        torch.testing.assert_close(five[:3], three)
        nets[network].zero_grad()
        five.mean().backward()
        gradients = [p.grad for p in nets[network].parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)
        assert any(g.any() for g in gradients)


def refuses(method, law):
    try:
        method.check_noise(law)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_every_law_of_the_noise_is_trained_on_or_refused(name, law):
    method, (batch, keys) = method_named(name), batch_of(5)
    model = student_of(method, noise={"name": law})
    if refuses(method, model.noise):
        assert law != "gaussian"
        with pytest.raises(UserError, match="holds for normal noise alone, but the model's is student_t"):
            nets_of(method, model)
        return
    _, nets = nets_of(method, model)
    batch["noise"] = model.noise.draw("x", keys, SHAPE)
    given = method.prepare_batch(batch, keys, model.noise)
    for network in method.updates(0):
        assert method.loss(nets, given, network, 0.5, keys).isfinite().all()


@pytest.mark.parametrize("name", [n for n in NAMES if method_named(n).needs.score])
def test_methods_that_compare_scores_refuse_student_t_noise(name):
    with pytest.raises(UserError, match="the score that it compares holds for normal noise alone"):
        method_named(name).check_noise(noises.get("student_t"))


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_is_left_as_it_was(name):
    method, (batch, keys) = method_named(name), batch_of(5)
    before = {key: tensor.clone() for key, tensor in batch.items()}
    _, nets = nets_of(method, student_of(method))
    method.loss(nets, method.prepare_batch(batch, keys, GAUSSIAN), method.updates(0)[0], 0.0, keys)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[key], before[key]) for key in batch)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_frozen_and_round_trip_through_json(name):
    method = method_named(name)
    assert type(method)(**json.loads(json.dumps(asdict(method)))) == method
    with pytest.raises(FrozenInstanceError):
        method.times = 1


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_the_source(name):
    method = registry.find("fewstep.methods", name)
    assert "arXiv" in method.__doc__
    assert importlib.import_module(method.__module__).__doc__
    assert method().needs.stream in ("data", "pairs", "trajectories", "noise")
    assert method.trained_times in ("all", "grid", "until_1")
    assert method.map_preserving in (True, False)


@pytest.mark.parametrize("name", [n for n in NAMES if method_named(n).trained_times == "grid"])
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (None, "no grid"),
        (grids.uniform(3, solver="heun"), "heun"),
        (grids.uniform(3, guidance=2.0), "guidance 2.0"),
    ],
)
def test_students_on_timesteps_need_a_grid_of_euler_steps(name, grid, message):
    with pytest.raises(UserError, match=message):
        method_named(name).networks(student(grid=grid), lambda which: student())


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_needed_with_classes_and_ignored_without(name):
    method, (batch, keys) = method_named(name), batch_of(5)
    without = {key: tensor for key, tensor in batch.items() if key != "label"}
    for model, given in ((student_of(method), without), (student_of(method, classes=0), batch)):
        _, nets = nets_of(method, model)
        for network in method.updates(0):
            if model.config.classes:
                with pytest.raises(UserError, match="no label"):
                    method.loss(nets, method.prepare_batch(given, keys, GAUSSIAN), network, 0.0, keys)
            else:
                assert (
                    method.loss(nets, method.prepare_batch(given, keys, GAUSSIAN), network, 0.0, keys)
                    .isfinite()
                    .all()
                )


@pytest.mark.parametrize("name", [n for n in NAMES if method_named(n).needs.teacher])
@pytest.mark.parametrize("other", [{"shape": (3,)}, {"classes": 0}, {"noise": {"name": "student_t"}}])
def test_a_teacher_of_other_samples_or_noise_is_refused(name, other):
    method = method_named(name)
    with pytest.raises(UserError, match="must make the same kind of samples"):
        method.networks(student_of(method), lambda which: student(**other))


@pytest.mark.parametrize("name", NAMES)
def test_only_a_model_that_saw_hidden_labels_is_guidable(name):
    method = method_named(name)
    assert method.trained()["guidable"] is False
    if hasattr(method, "label_dropout"):
        assert replace(method, label_dropout=0.1).trained()["guidable"] is True


@pytest.mark.parametrize("name", [n for n in NAMES if method_named(n).trained_times == "all"])
def test_a_model_of_any_grid_has_no_last_step_that_is_clamped(name):
    """A flow map's last step is the one until data, which its training may clamp on any grid."""
    method = method_named(name)
    assert method.needs.second_time or method.trained()["in_range"] is False


@pytest.mark.parametrize("name", [n for n in NAMES if method_named(n).needs.second_time])
def test_flow_maps_need_a_network_with_a_second_time(name):
    with pytest.raises(UserError, match="trains a network with a second time"):
        method_named(name).networks(student(), lambda which: student())
