"""Methods that train a student at a range of guidance: the exact answer at every scale, and their draws."""

from dataclasses import replace

import guided
import pytest
import torch
from oracles import Gaussian, two_gaussians

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.methods import _spans
from fewstep.methods._hidden_conditions import hidden_of
from fewstep.methods.consistency import Consistency
from fewstep.methods.flow_map_distillation import FlowMapDistillation
from fewstep.methods.meanflow import Meanflow
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate
from fewstep.training.loop import train
from fewstep.training.needed_inputs import with_needed
from fewstep.training.networks import Training

N = 400
KEYS = randomness.keys_of(0, 0, N)
LABEL = KEYS[:, 1] % 2
RANGE = (1.0, 4.0)
MEANFLOW = Meanflow(learn_from="data", label_dropout=0.2, guidance=RANGE, power=0, exact=True)
UNIFORM = 1 + 3 * randomness.uniforms("train.guidance", KEYS).double()
DISTILLING = [
    *(FlowMapDistillation(identity=each, guidance=RANGE, exact=True) for each in ("eulerian", "lagrangian")),
    FlowMapDistillation(identity="semigroup", guidance=RANGE),
    Consistency(kind="continuous", guidance=RANGE, exact=True),
    Consistency(kind="discrete", guidance=RANGE, intervals=(256, 256)),
]


def points():
    return randomness.noises("points", KEYS, (2,)).double()


def chords(method, law, x):
    """Return noise and data whose chord passes x, with the mean velocity there, at the time that is drawn."""
    shares = {name: getattr(method, name) for name in ("to_data", "from_noise", "at_once")}
    t, _ = _spans.draw_spans(as_flow(guided.student()), KEYS, **shares)
    data, noise = law.posterior(x, t.double(), 1 - t.double())
    return {"data": data, "noise": noise}


def losses(method, student, batch, progress=1.0):
    nets = {"student": student, "target": student, "teacher": guided.teacher()}
    return method.loss(nets, batch | {"label": LABEL}, "student", progress, KEYS)


def student_of(method):
    return guided.student(until_data=method.trained_times == "until_1")


class Deaf(guided.Exact):
    """Shows the same guidance whatever it is given."""

    def forward(self, x, t, label=None, until=None, guidance=None):
        return super().forward(x, t, label, until, torch.full_like(t, 2.5))


def test_meanflow_has_nothing_to_learn_at_the_maps_of_every_guided_flow():
    shown = torch.where(hidden_of(0.2, KEYS), 2, LABEL)
    batch = chords(MEANFLOW, guided.guided(shown, torch.ones(N).double()), points())
    assert losses(MEANFLOW, guided.student(), batch).max() < 1e-20
    deaf = losses(MEANFLOW, guided.student(network=Deaf()), batch)
    assert deaf.mean() > 0.1


def test_meanflow_has_nothing_to_learn_at_the_guided_velocities_of_a_mixture():
    method, mixture = replace(MEANFLOW, at_once=1.0), two_gaussians()
    hidden = hidden_of(0.2, KEYS)
    alone = Gaussian(mixture.means[LABEL], mixture.stds[LABEL][:, None])
    own, none = (chords(method, law, points()) for law in (alone, mixture))
    batch = {name: torch.where(hidden[:, None], none[name], own[name]) for name in own}
    student = guided.student(network=guided.Velocities(guided.Components(mixture)))
    assert losses(method, student, batch).max() < 1e-20
    wrong = {name: own[name] + 0.1 for name in own}
    assert losses(method, student, wrong).mean() > 1e-4


@pytest.mark.parametrize("method", DISTILLING)
def test_a_guided_teacher_has_nothing_to_teach_the_exact_student_of_every_scale(method):
    batch = {"data": points()}
    exact = losses(method, student_of(method), batch)
    assert exact.max() < (1e-7 if getattr(method, "kind", "") == "discrete" else 1e-15)
    deaf = student_of(method)
    deaf.network = Deaf(until_data=deaf.config.velocity_until == "data")
    assert losses(method, deaf, batch).mean() > 100 * exact.mean() + 1e-9


@pytest.mark.parametrize("method", [MEANFLOW, *DISTILLING])
def test_the_student_is_given_the_scale_that_is_drawn_for_each_sample(method):
    student = student_of(method)
    losses(method, student, {"data": points(), "noise": points()})
    if isinstance(method, Meanflow):
        wanted = torch.where(hidden_of(0.2, KEYS), 1.0, 4 ** ((UNIFORM - 1) / 3))
    else:
        wanted = UNIFORM
    torch.testing.assert_close(student.network.seen, wanted)
    middle = 2.0 if isinstance(method, Meanflow) else 2.5  # of the logarithms, of the scales
    assert (wanted > middle).double().mean() == pytest.approx(0.4 if middle == 2 else 0.5, abs=0.06)


def small():
    config = ModelConfig(architecture={"name": "mlp", "width": 32, "depth": 2}, **guided.FACTS)
    model = build(config, seed=0)
    with torch.no_grad():  # a fresh network's output is zero
        for number, weight in enumerate(model.parameters()):
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    return model


def started(method):
    """Return a student that the method is to train, as the stage makes it."""
    model = with_needed(small(), method.needs, seed=0)
    grid = uniform(1) if method.trained_times == "until_1" else None
    return Model(replace(model.config, grid=grid, **method.trained()), model.network)


class Labelled:
    """Batches of both classes."""

    def __init__(self, size, stop=None):
        self.size, self.stop = size, stop

    def __getitem__(self, step):
        if step == self.stop:
            raise KeyboardInterrupt
        keys = randomness.keys_of(3, step * self.size, (step + 1) * self.size)
        label = keys[:, 1] % 2
        own = guided.guided(label, torch.ones(self.size).double())
        data = (own.mean + own.std * randomness.noises("data", keys, (2,))).float()
        return {"data": data, "label": label}, keys


FAST = [
    replace(MEANFLOW, exact=False, power=1.0),
    FlowMapDistillation(guidance=RANGE),
    Consistency(guidance=RANGE),
]


@pytest.mark.parametrize("method", FAST)
def test_a_few_updates_make_scales_differ_that_were_the_same(method):
    model = started(method)
    noise, label = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 2

    def made(scale):
        with torch.no_grad():
            flow = as_flow(model, guidance=scale)
            return integrate(flow, noise, uniform(1, guidance=scale), label=label)

    assert torch.equal(made(1.0).x, made(4.0).x)
    training = Training(
        method, model, lambda name: guided.teacher(), TrainSettings(steps=40), 0, torch.device("cpu")
    )
    for step in range(4):
        training.take_step(*Labelled(64)[step])
    assert (made(1.0).x - made(4.0).x).abs().min(dim=1).values.max() > 1e-4
    assert made(4.0).nfe == 1


def test_a_student_learns_where_each_scale_leads(tmp_path):
    settings = TrainSettings(steps=600, batch=128, learning_rate=3e-3, ema=0.98)
    model = learned(Consistency(guidance=RANGE), settings, tmp_path).model
    noise, label = torch.randn(500, 2, generator=torch.Generator().manual_seed(1)), torch.arange(500) % 2
    for scale in (1.0, 2.0, 4.0):
        law = guided.guided(label, torch.full((500,), scale).double())
        with torch.no_grad():
            made = integrate(as_flow(model, guidance=scale), noise, uniform(1), label=label).x
        off = made - law.mean - law.std * noise
        assert off.square().mean() < 0.1 * law.mean.square().mean()


def learned(method, settings, state, stop=None):
    return train(
        method,
        started(method),
        load=lambda name: guided.teacher(),
        batches=Labelled(settings.batch, stop),
        held_out=[Labelled(20)[1000][0]],
        settings=settings,
        seed=0,
        state=state,
    )


@pytest.mark.parametrize("method", FAST)
def test_a_resumed_training_draws_the_scales_that_a_whole_one_draws(method, tmp_path, monkeypatch):
    settings = TrainSettings(steps=12, batch=16)
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    whole = learned(method, settings, tmp_path / "whole").model
    with pytest.raises(KeyboardInterrupt):
        learned(method, settings, tmp_path / "stopped", stop=9)
    again = learned(method, settings, tmp_path / "stopped").model
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Consistency(guidance=(4, 1)),
            r"goes from 1, .* up to a larger scale, such as \[1, 4\]; got \[4",
        ),
        (lambda: FlowMapDistillation(guidance=[3]), r"got \[3\]"),
        (lambda: Consistency(guidance=(2, 4)), r"got \[2, 4\]"),
        (lambda: Consistency(guidance=(1, float("inf"))), r"got \[1, inf\]"),
        (lambda: Consistency(guidance=RANGE, teacher=False), r"guidance \[1, 4\] needs `teacher: true`"),
        (lambda: Meanflow(guidance=RANGE), r"guidance \[1, 4\] needs learn_from data and a label_dropout"),
        (lambda: replace(MEANFLOW, mixing=0.7), r"mixing 0\.7 is for one scale of guidance"),
    ],
)
def test_ranges_that_can_not_be(make, told):
    with pytest.raises(UserError, match=told):
        make()


@pytest.mark.parametrize("method", [MEANFLOW, *DISTILLING])
def test_students_and_teachers_that_do_not_fit_are_refused(method):
    model = started(method)
    deaf = replace(method.needs, guidance_input=False)
    plain = with_needed(small(), deaf, seed=0)
    plain = Model(replace(plain.config, grid=model.config.grid), plain.network)
    with pytest.raises(UserError, match="with_guidance_input gives the student one"):
        method.networks(plain, lambda name: guided.teacher())
    if method.needs.teacher:
        with pytest.raises(UserError, match=r"guidance 4\.0 needs a model that was trained with label_drop"):
            method.networks(model, lambda name: guided.teacher(guidable=False))
        with pytest.raises(UserError, match="shows guidance 2 unasked, and a range starts from 1"):
            method.networks(model, lambda name: guided.teacher(baked_guidance=2.0))


def test_what_a_student_of_a_range_says_of_itself():
    for method in (MEANFLOW, *DISTILLING):
        facts = method.trained()
        assert (facts["baked_guidance"], facts["guidance_range"]) == (1.0, RANGE)
        assert "guidance_range" not in replace(method, guidance=2.0).trained()
