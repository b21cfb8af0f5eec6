import gc
from dataclasses import replace

import oracles
import pytest
import torch
from torch import nn

from fewstep import grids, paths, predictions, solvers
from fewstep.errors import UserError
from fewstep.flow import END_MARGIN, FieldFlow, as_flow, batch_times, ends_in_range, usable_times
from fewstep.grids import Grid
from fewstep.model import Model, ModelConfig, build

PAIRS = [(path, prediction) for path in paths.PATHS for prediction in predictions.PARTS]


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_every_path_and_prediction_becomes_the_same_canonical_velocity(path, prediction):
    oracle = oracles.gaussian([1.0, -2.0], [0.5, 2.0])
    flow = as_flow(oracles.as_model(oracle, path=path, prediction=prediction))
    x = oracle.noise(4)
    for t in (flow.t_start + 1e-6, 0.1, 0.5, 0.9, flow.t_end - 1e-6):
        expected = oracle.velocity(x, torch.full((4,), t, dtype=x.dtype))
        torch.testing.assert_close(flow(x, t), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_velocity_is_finite_at_both_ends_of_the_usable_times(path, prediction):
    oracle = oracles.gaussian([1.0, -2.0], [0.5, 2.0])
    flow = as_flow(oracles.as_model(oracle, path=path, prediction=prediction))
    for t in (flow.t_start, flow.t_end):
        assert flow(oracle.noise(4).float(), t).isfinite().all()


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_every_path_and_prediction_gives_the_same_samples(path, prediction, name):
    oracle = oracles.two_gaussians()
    noise = oracle.noise(16)
    flow = as_flow(oracles.as_model(oracle, path=path, prediction=prediction))
    times = (flow.t_start, 0.2, 0.4, 0.6, 0.8, 1.0)
    found = solvers.integrate(flow, noise, Grid(times, solver=name)).x
    # the exact flow, told to stop where the model must, so that Heun ends with the same Euler step
    exact = FieldFlow(oracle.velocity, t_start=flow.t_start, t_end=flow.t_end)
    torch.testing.assert_close(
        found, solvers.integrate(exact, noise, Grid(times, solver=name)).x, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("path", "prediction", "start", "end"),
    [
        ("linear", "velocity", 0.0, 1.0),
        ("linear", "data", 0.0, 1 - END_MARGIN),
        ("linear", "noise", END_MARGIN, 1.0),
        ("linear", "score", END_MARGIN, 1 - END_MARGIN),
        ("cosine", "v", 0.0, 1.0),
        ("ve", "data", 1 / 81, 1 / 1.002),
    ],
)
def test_usable_times(path, prediction, start, end):
    assert usable_times(path, prediction) == pytest.approx((start, end))


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint", "rk4", "ab2"])
def test_solvers_never_ask_after_the_end_of_the_flow(name):
    asked = []

    def velocity(x, t):
        asked.append(float(t[0]))
        return x

    flow = FieldFlow(velocity, t_end=0.9)
    solvers.integrate(flow, torch.ones(2, 3), grids.uniform(4, solver=name))
    assert max(asked) <= 0.9


def test_a_grid_that_starts_too_early_is_refused():
    flow = FieldFlow(lambda x, t: x, t_start=0.1)
    with pytest.raises(UserError, match=r"starts at 0\.0.*at 0\.1; start it there"):
        solvers.integrate(flow, torch.ones(2, 3), grids.uniform(4))


def test_a_grid_with_a_step_after_the_end_of_the_flow_is_refused():
    flow = FieldFlow(lambda x, t: pytest.fail("called"), t_end=0.9)
    with pytest.raises(UserError, match=r"last step starts at 0\.95, after the last velocity.*at 0\.9;"):
        solvers.integrate(flow, torch.ones(2, 3), Grid((0.0, 0.5, 0.92, 0.95, 1.0)))


def student_of_a_grid(jitter=0.0):
    model = oracles.as_model(oracles.two_gaussians())
    model.config = replace(model.config, grid=Grid((0.0, 0.4, 0.6, 1.0)), trained_times="grid", jitter=jitter)
    return as_flow(model)


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (grids.uniform(7), r"its own 3 steps of euler alone; the grid has 7 of euler: take the student's"),
        (Grid((0.0, 0.4, 0.6, 1.0), solver="heun"), "the grid has 3 of heun"),
        (Grid((0.0, 0.4, 0.5, 1.0)), r"the grid has 0\.5 where the student's has 0\.6: take that grid"),
    ],
)
def test_a_student_of_a_grid_is_not_asked_for_what_it_was_not_trained_for(grid, told):
    flow, noise = student_of_a_grid(), torch.ones(2, 2)
    with pytest.raises(UserError, match=told):
        solvers.integrate(flow, noise, grid)
    assert solvers.integrate(flow, noise, flow.model.config.grid).nfe == 3


def test_a_student_with_jitter_knows_the_times_near_its_timesteps():
    flow, noise = student_of_a_grid(jitter=0.25), torch.ones(2, 2)
    assert solvers.integrate(flow, noise, Grid((0.0, 0.31, 0.69, 1.0))).nfe == 3
    with pytest.raises(UserError, match=r"the grid has 0\.71 where the student's has 0\.55 to 0\.7: take"):
        solvers.integrate(flow, noise, Grid((0.0, 0.31, 0.71, 1.0)))


def test_a_last_step_may_start_at_the_end_of_the_flow():
    flow = FieldFlow(lambda x, t: torch.ones_like(x), t_end=0.9)
    solution = solvers.integrate(flow, torch.zeros(1, 1), Grid((0.0, 0.9 + 1e-12, 1.0), solver="heun"))
    assert float(solution.x) == pytest.approx(1)


def test_a_late_start_shrinks_the_noise_to_its_share():
    flow = FieldFlow(lambda x, t: torch.full_like(x, 2.0), t_start=0.25)
    start = next(solvers.trajectory(flow, torch.ones(1, 2), grids.uniform(2, start=0.25)))
    torch.testing.assert_close(start, torch.full((1, 2), 0.75))


class Labelled(nn.Module):
    """Velocity = the label, and 10 for the null label."""

    def forward(self, x, t, label):
        return torch.where(label == 3, 10.0, label.double())[:, None].expand_as(x)


def labelled(classes=3):
    return Model(ModelConfig(architecture={"name": "none"}, shape=(2,), classes=classes), Labelled())


def test_guidance_moves_away_from_the_null_condition():
    x, label = torch.zeros(3, 2).double(), torch.tensor([0, 1, 2])
    velocity = as_flow(labelled(), guidance=1.5)(x, 0.5, label=label)
    torch.testing.assert_close(velocity[:, 0], 10 + 1.5 * (label.double() - 10))


def test_guidance_is_refused_of_a_model_that_never_saw_a_hidden_label_and_multiplies_what_it_shows():
    guided, sure = labelled(), labelled()
    guided.config = replace(guided.config, baked_guidance=2.0, guidable=False)
    sure.config = replace(sure.config, guidable=False)
    assert guided.config.guidance_shown(1.0) == 2.0
    assert sure.config.guidance_shown(1.0) == 1.0
    again = replace(guided.config, guidable=True)
    assert [again.guidance_shown(asked) for asked in (1.0, 0.5, 3.0)] == [2.0, 1.0, 6.0]
    with pytest.raises(UserError, match=r"was taught guidance 2\.0; ask for 1, not 3\.0"):
        replace(again, guidance_input=True).guidance_shown(3.0)
    with pytest.raises(UserError, match=r"was taught guidance 2\.0; ask for 1, not 3\.0"):
        as_flow(guided, guidance=3.0)
    with pytest.raises(UserError, match=r"guidance 3\.0 needs a model that was trained with label_dropout"):
        as_flow(sure, guidance=3.0)


@pytest.mark.parametrize(
    ("guidable", "guidance", "why"),
    [(False, 1.0, "it never saw a hidden one"), (True, 2.0, r"guidance 2\.0 leads towards one")],
)
def test_a_forgotten_label_is_reported_where_nothing_was_learnt_in_its_place(guidable, guidance, why):
    model = labelled()
    model.config = replace(model.config, guidable=guidable)
    flow = as_flow(model, guidance=guidance)
    with pytest.raises(UserError, match=rf"3 classes and needs a label for each sample, as {why}; give"):
        solvers.integrate(flow, torch.zeros(2, 2), grids.uniform(1))
    assert solvers.integrate(flow, torch.zeros(2, 2), grids.uniform(1), label=torch.tensor([0, 1])).nfe


def test_a_model_that_learnt_what_to_do_without_a_label_needs_none():
    model = build(ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(2,), classes=3), seed=0)
    x = torch.ones(2, 2)
    assert torch.equal(as_flow(model)(x, 0.5), as_flow(model)(x, 0.5, label=torch.tensor([3, 3])))


def test_a_condition_that_the_model_does_not_have_is_told():
    with pytest.raises(UserError, match="this model: unknown condition 'labels'; did you mean 'label'"):
        as_flow(labelled())(torch.ones(2, 2), 0.5, labels=torch.tensor([0, 1]))
    plain = build(ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(2,)), seed=0)
    with pytest.raises(UserError, match=r"unknown condition 'label' \(there are: none\)"):
        as_flow(plain)(torch.ones(2, 2), 0.5, label=torch.tensor([0, 1]))


class Constant(nn.Module):
    """The same velocity everywhere."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor([by, -by, 0.2]))

    def forward(self, x, t):
        return self.by.expand_as(x)


def in_range(by=2.0, times=(0.0, 0.5, 1.0)):
    facts = {"grid": grids.Grid(times), "trained_times": "grid", "in_range": True}
    return Model(ModelConfig(architecture={"name": "none"}, shape=(3,), **facts), Constant(by))


def test_a_student_in_range_is_clamped_by_its_last_step_alone():
    flow, start = as_flow(in_range()), torch.zeros(2, 3)
    middle, end = list(solvers.trajectory(flow, start, flow.model.config.grid))[1:]
    torch.testing.assert_close(middle[0], torch.tensor([1.0, -1.0, 0.1]))  # half of the way, not clamped
    torch.testing.assert_close(end[0], torch.tensor([1.0, -1.0, 0.2]))
    one = in_range(times=(0.0, 1.0))
    once = solvers.integrate(as_flow(one), start, one.config.grid).x
    torch.testing.assert_close(once[0], torch.tensor([1.0, -1.0, 0.2]))
    free = in_range()
    free.config = replace(free.config, in_range=False)
    ends = solvers.integrate(as_flow(free), start, free.config.grid).x
    torch.testing.assert_close(ends[0], torch.tensor([2.0, -2.0, 0.2]))


def test_a_student_in_range_is_guided_before_it_is_clamped():
    student = labelled()
    facts = {"grid": grids.Grid((0.0, 1.0)), "trained_times": "grid", "in_range": True}
    student.config = replace(student.config, **facts)
    start, label = torch.full((1, 2), -9.9), torch.tensor([2])  # null gives 10, the label 2
    ends = [as_flow(student, guidance=w)(start, 0.0, label=label) + start for w in (1.0, 0.75, 3.0)]
    torch.testing.assert_close(torch.cat(ends)[:, 0], torch.tensor([-1.0, -1.0, -1.0]))
    near = as_flow(student, guidance=0.0625)(start, 0.0, label=label) + start  # 10 - 0.5 - 9.9
    torch.testing.assert_close(near[0, 0], torch.tensor(-0.4))


def test_values_out_of_range_get_gradients_that_lead_back_alone():
    student = in_range(times=(0.0, 1.0))
    for towards, expected in ((1.0, [1.0, 0.0, 1.0]), (-1.0, [0.0, -1.0, -1.0])):
        student.zero_grad()
        sample = solvers.integrate(as_flow(student), torch.zeros(1, 3), student.config.grid).x
        (towards * sample).sum().backward()  # descent moves every value by -towards
        torch.testing.assert_close(student.network.by.grad, torch.tensor(expected))


def test_the_end_of_a_last_step_is_freed_with_its_gradients():
    shape = (1, 3, 5, 7)  # no other tensor has it
    velocity = torch.ones(shape, requires_grad=True)
    ends_in_range(
        velocity, torch.zeros(shape), torch.zeros(1), torch.ones(1, dtype=torch.bool)
    ).sum().backward()
    del velocity
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is torch.Tensor and each.shape == shape]


def test_guidance_doubles_the_calls():
    noise, label = torch.zeros(3, 2).double(), torch.tensor([0, 1, 2])
    nfe = [
        solvers.integrate(as_flow(labelled(), guidance=g), noise, grids.uniform(4), label=label).nfe
        for g in (1.0, 2.0)
    ]
    assert nfe == [4, 8]


def test_guidance_needs_classes():
    with pytest.raises(UserError, match=r"guidance 2\.0 needs a class-conditional model"):
        as_flow(labelled(classes=0), guidance=2.0)


def test_batch_times_takes_a_number_or_a_time_for_each_sample():
    x = torch.zeros(3, 2).double()
    assert batch_times(0.25, x).tolist() == [0.25] * 3
    assert batch_times(torch.tensor([0.0, 0.5, 1.0]), x).tolist() == [0.0, 0.5, 1.0]
    assert batch_times(0.25, x).dtype == torch.float64


@pytest.mark.parametrize("path", paths.PATHS)
def test_networks_are_asked_in_float32_where_the_noise_is(path):
    """Not every device has float64."""
    seen, model = [], oracles.as_model(oracles.two_gaussians(), path=path, prediction="noise")
    model.register_forward_pre_hook(lambda module, args: seen.extend(args))
    assert as_flow(model)(torch.ones(3, 2), 0.5).dtype == torch.float32
    assert [tensor.dtype for tensor in seen] == [torch.float32, torch.float32]


def test_a_sample_does_not_depend_on_its_batch():
    oracle = oracles.two_gaussians()
    flow = as_flow(oracles.as_model(oracle, path="vp", prediction="noise"))
    x, t = oracle.noise(5), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).double()
    torch.testing.assert_close(flow(x, t)[:3], flow(x[:3], t[:3]), rtol=1e-12, atol=1e-12)
