"""Claims of papers, tried on what fits this machine: both sides of each, over three seeds.

Run `python -m benchmarks.claims NAME`, or without a name for all; minutes each on two cores. The data is a
mixture of 10 Gaussians in 8 dimensions, the networks are small MLPs. Printed is the energy distance of 4000
samples to as many of the data, times 1000, the mean over seeds with its standard error: lower is better.
It is unbiased, so that of the data itself is about 0. docs/claims.md says what each paper claims and how that
fared.
"""

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import Tensor

from benchmarks._mixtures import Mixture, StudentMixture
from fewstep import grids, noises, randomness, samplers
from fewstep.flow import FieldFlow, as_flow
from fewstep.grids import Grid
from fewstep.methods.anyflow import Anyflow
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.flow_guided import FlowGuided
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.phased import Phased
from fewstep.methods.reflow import Reflow
from fewstep.methods.sim import Sim
from fewstep.methods.straighten import Straighten
from fewstep.model import Model, ModelConfig, build
from fewstep.samplers.reinterpolate import Reinterpolate
from fewstep.samplers.sde import Sde
from fewstep.searches.bellman import Bellman
from fewstep.searching.call import search
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate, trajectory
from fewstep.timing import with_second_time
from fewstep.training.loop import train
from fewstep.training.method import Batch, Method

SEEDS, SAMPLES, POOL, BATCH, FINE = (0, 1, 2), 4000, 16_000, 256, 32
DATA = Mixture.drawn(8, 10, 0.3)
SHAPE = (DATA.means.shape[1],)
WIDE, NARROW = ({"name": "mlp", "width": width, "depth": 3} for width in (96, 32))


class Pool:
    """Batches of random rows of some tensors."""

    def __init__(self, rows: Batch, seed: int, batch: int) -> None:
        self.rows, self.seed, self.batch = rows, seed, batch

    def __getitem__(self, step: int) -> tuple[Batch, Tensor]:
        """Return batch number `step` and its keys."""
        draw = torch.Generator().manual_seed(1_000_000 * self.seed + step)
        pick = torch.randint(len(next(iter(self.rows.values()))), (self.batch,), generator=draw)
        keys = randomness.keys_of(self.seed, step * self.batch, (step + 1) * self.batch)
        return {name: rows[pick] for name, rows in self.rows.items()}, keys


def fit(
    method: Method,
    student: Model,
    rows: Batch,
    seed: int,
    *,
    steps: int,
    rate: float = 1e-3,
    batch: int = BATCH,
    **models: Model,
) -> Model:
    """Return a trained copy of `student`, whose config says what the method trained."""
    student = copy.deepcopy(student)
    student.config = replace(student.config, **method.trained())
    settings = TrainSettings(steps=steps, batch=batch, learning_rate=rate, warmup=20, ema=0.99)
    held_out = {name: values[:BATCH] for name, values in rows.items()}
    with TemporaryDirectory() as folder:
        return train(
            method,
            student,
            load=lambda name: copy.deepcopy(models[name]),
            batches=Pool(rows, seed, batch),
            held_out=[held_out],
            settings=settings,
            seed=seed,
            state=Path(folder),
        ).model


def noise_of(stream: str, seed: int, count: int) -> Tensor:
    """Return noises (count, *SHAPE)."""
    return randomness.noises(stream, randomness.keys_of(seed, 0, count), SHAPE)


def data_of(seed: int, count: int) -> Tensor:
    """Return samples of the mixture, (count, *SHAPE)."""
    return DATA.sample(count, seed)


def fresh(architecture: dict, seed: int) -> Model:
    """Return an untrained model."""
    return build(ModelConfig(architecture=architecture, shape=SHAPE), seed=seed)


@cache
def teacher_of(seed: int) -> Model:
    """Return the pretrained model of a seed."""
    return fit(FlowMatching(), fresh(WIDE, seed), {"data": data_of(seed, POOL)}, seed, steps=3000, rate=2e-3)


@cache
@torch.no_grad()
def states_of(seed: int) -> Tensor:
    """Return the teacher's trajectories at FINE + 1 equal times, (POOL, FINE + 1, *SHAPE)."""
    grid = grids.uniform(FINE, solver="heun")
    return torch.stack(list(trajectory(as_flow(teacher_of(seed)), noise_of("pool", seed, POOL), grid)), dim=1)


def pairs_of(seed: int) -> Batch:
    """Return the teacher's pairs."""
    return {"noise": states_of(seed)[:, 0], "data": states_of(seed)[:, -1]}


@cache
def reflowed(seed: int, times: str = "u_shaped", distance: str = "l2") -> Model:
    """Return the teacher after one reflow."""
    return fit(Reflow(times=times, distance=distance), teacher_of(seed), pairs_of(seed), seed, steps=1500)


def on_grid(model: Model, grid: Grid) -> Model:
    """Return a copy that carries a grid of Euler steps."""
    model = copy.deepcopy(model)
    model.config = replace(model.config, grid=grid)
    return model


@torch.no_grad()
def distance(samples: Tensor, data: Mixture = DATA) -> float:
    """Return 1000 times the energy distance to the data, an unbiased estimate; Szekely and Rizzo 2013."""
    real, n = data.sample(len(samples), 10**6), len(samples)
    own, theirs = (torch.cdist(x, x).sum() / (n * (n - 1)) for x in (samples, real))
    return 1000 * float(2 * torch.cdist(samples, real).mean() - own - theirs)


def solved(model: Model, seed: int, steps: int, solver: str = "euler") -> float:
    """Return the distance of a model's samples by equal steps."""
    return made_by(model, seed, grids.uniform(steps, solver=solver))


@torch.no_grad()
def made_by(model: Model, seed: int, grid: Grid) -> float:
    """Return the distance of a model's samples by the steps of a grid."""
    return distance(integrate(as_flow(model), noise_of("test", seed, SAMPLES), grid).x)


@torch.no_grad()
def sampled(model: Model, seed: int, steps: int, sampler: samplers.Sampler) -> float:
    """Return the distance of samples that a sampler makes."""
    keys = randomness.keys_of(seed, 0, SAMPLES)
    noise = noise_of("test", seed, SAMPLES)
    return distance(samplers.sample(as_flow(model), noise, grids.uniform(steps).times, sampler, keys=keys).x)


def interpolants(seed: int) -> dict[str, float]:
    """Stochastic interpolants: which sampler is better at few NFE, and which at many?"""
    teacher, found = teacher_of(seed), {}
    for steps in (4, 16, 64, 256):
        found[f"{steps:>3} NFE, flow, euler"] = solved(teacher, seed, steps)
        found[f"{steps:>3} NFE, sde, bound"] = sampled(teacher, seed, steps, Sde())
    return found


def second_noise(seed: int) -> dict[str, float]:
    """Stochastic interpolants: paths with gamma 2, by v and by the velocity, whose noise has both signs."""
    models = {"straight path, velocity": teacher_of(seed)}
    for name, prediction, antithetic in (
        ("gamma, v", "v", False),
        ("gamma, velocity", "velocity", False),
        ("gamma, velocity, both signs", "velocity", True),
    ):
        path = {"name": "linear", "gamma": 2.0}
        config = ModelConfig(architecture=WIDE, shape=SHAPE, path=path, prediction=prediction)
        models[name] = fit(
            FlowMatching(antithetic=antithetic),
            build(config, seed=seed),
            {"data": data_of(seed, POOL)},
            seed,
            steps=3000,
            rate=2e-3,
            batch=BATCH // 2 if antithetic else BATCH,  # as many calls
        )
    return {
        f"{steps:>2} steps of {solver}, {name}": solved(model, seed, steps, solver)
        for steps, solver in ((4, "euler"), (16, "euler"), (FINE, "heun"))
        for name, model in models.items()
    }


def rf_plus_plus(seed: int) -> dict[str, float]:
    """RF++: times and distance of reflow at 1 NFE; and re-interpolation at more."""
    found = {
        f"1 NFE, {times}, {of}": solved(reflowed(seed, times, of), seed, 1)
        for times in ("uniform", "u_shaped")
        for of in ("l2", "huber")
    }
    model = reflowed(seed)
    for steps in (2, 4):
        found[f"{steps} NFE, u_shaped, l2, euler"] = solved(model, seed, steps)
        found[f"{steps} NFE, u_shaped, l2, reinterpolate"] = sampled(model, seed, steps, Reinterpolate())
    found["4 NFE, teacher, reinterpolate"] = sampled(teacher_of(seed), seed, 4, Reinterpolate())
    return found


def rectified_flow(seed: int) -> dict[str, float]:
    """Rectified flow: reflow makes few Euler steps enough."""
    models = {"teacher": teacher_of(seed), "reflowed": reflowed(seed)}
    return {
        f"{steps} NFE, {name}": solved(m, seed, steps) for steps in (1, 2, 4, 8) for name, m in models.items()
    } | {"converged teacher": solved(models["teacher"], seed, FINE, "heun")}


def slimflow(seed: int) -> dict[str, float]:
    """SlimFlow, a student of an eighth of the weights: with annealing and flow guidance, and without."""
    pairs, found, small = pairs_of(seed), {}, {}
    for anneal in (0.0, 0.5):
        small[anneal] = fit(Reflow(anneal=anneal), fresh(NARROW, seed), pairs, seed, steps=1500, rate=2e-3)
        found[f"1 NFE, reflow from scratch, anneal {anneal}"] = solved(small[anneal], seed, 1)
    start = on_grid(small[0.5], grids.uniform(1))
    for name, method in (("endpoint", Endpoint()), ("flow_guided", FlowGuided())):
        student = fit(method, start, pairs, seed, steps=1000, teacher=small[0.5])
        found[f"1 NFE, then {name}"] = solved(student, seed, 1)
    return found


def rectified_diffusion(seed: int) -> dict[str, float]:
    """Rectified Diffusion: phases against straightening at the timesteps, 4 NFE."""
    start, found = (
        on_grid(teacher_of(seed), grids.uniform(4)),
        {"4 NFE, teacher": solved(teacher_of(seed), seed, 4)},
    )
    states, data = {"states": states_of(seed)[:, :: FINE // 4]}, {"data": data_of(seed, POOL)}
    for name, method, rows in (
        ("phased", Phased(), states),
        ("phased, from data", Phased(learn_from="data"), data),
        ("straighten", Straighten(), states),
    ):
        student = fit(method, start, rows, seed, steps=600, teacher=teacher_of(seed))
        found[f"4 NFE, {name}"] = solved(student, seed, 4)
    return found


def boss(seed: int) -> dict[str, float]:
    """BOSS: a searched grid against equal steps, untrained and straightened from the teacher's states."""
    teacher, found = teacher_of(seed), {}
    method = Bellman(fine_steps=FINE, fine_solver="heun")
    searched = search(teacher, noise_of("search", seed, method.noises), budgets=(2, 4, 8), method=method)
    for steps, grid in searched.items():
        for name, own in (("equal steps", grids.uniform(steps)), ("searched", grid)):
            found[f"{steps} NFE, {name}"] = made_by(teacher, seed, own)
            rows = {"states": states_of(seed)[:, [round(FINE * t) for t in own.times]]}
            student = fit(Straighten(on_policy=False), on_grid(teacher, own), rows, seed, steps=600)
            found[f"{steps} NFE, {name}, straightened"] = made_by(student, seed, own)
    return found


def score_implicit_matching(seed: int) -> dict[str, float]:
    """Score implicit matching: one step, trained on from `endpoint` without data, against more of that."""
    start, pairs = on_grid(teacher_of(seed), grids.uniform(1)), pairs_of(seed)
    endpoint = fit(Endpoint(), start, pairs, seed, steps=1500)
    models = {"endpoint": endpoint, "then endpoint": fit(Endpoint(), endpoint, pairs, seed, steps=1000)}
    label = {"label": torch.zeros(POOL)}  # a batch of noise alone has no other field
    for divergence in ("huber", "squared"):
        models[f"then sim, {divergence}"] = fit(
            Sim(divergence=divergence),
            endpoint,
            label,
            seed,
            steps=1000,
            rate=1e-4,
            teacher=teacher_of(seed),
        )
    found = {f"1 NFE, {name}": solved(model, seed, 1) for name, model in models.items()}
    return found | {"converged teacher": solved(teacher_of(seed), seed, FINE, "heun")}


def any_step(seed: int) -> dict[str, float]:
    """Flow map and AnyFlow: one student for any NFE, and its on-policy stage."""
    student, states = with_second_time(teacher_of(seed), seed=seed), states_of(seed)
    rows = {"states": states, "times": torch.linspace(0, 1, FINE + 1).expand(POOL, -1)}
    mapped = fit(FlowMap(), student, rows, seed, steps=1500)
    label = {"label": torch.zeros(POOL)}  # a batch of noise alone has no other field
    models = {"flow_map": mapped}
    for name, weight, batch in (("then anyflow", 0.0, label), ("then anyflow, map_weight 1", 1.0, rows)):
        method = Anyflow(map_weight=weight)
        models[name] = fit(method, mapped, batch, seed, steps=300, rate=5e-5, teacher=teacher_of(seed))
    return {
        f"{steps} NFE, {name}": solved(m, seed, steps) for steps in (1, 2, 4, 8) for name, m in models.items()
    }


def pfgm_plus_plus(seed: int) -> dict[str, float]:
    """PFGM++: exact flows in 64 dimensions whose network, in EDM's sense, is off by fresh noise; 35 NFE."""
    data, keys, found = Mixture.drawn(64, 10, 0.3), randomness.keys_of(seed, 0, SAMPLES), {}
    grid = grids.spaced("edm", 18, start=0.0, end=0.999, solver="heun")
    for error in (0.0, 0.5, 1.0, 2.0):
        for degrees in (4.0, 16.0, 128.0, 2048.0, math.inf):
            law = noises.get({"name": "student_t", "degrees": degrees})
            exact = data if law == noises.GAUSSIAN else StudentMixture(data, degrees)
            draw = torch.Generator().manual_seed(seed)

            def velocity(
                x: Tensor,
                t: Tensor,
                exact: Mixture | StudentMixture = exact,
                draw: torch.Generator = draw,
                error: float = error,
            ) -> Tensor:
                # c_out of Karras et al. 2022, over (1 - t): what an output's error is in the velocity
                scale = 1 / ((1 - t) ** 2 + t**2).sqrt()
                return exact(x, t) + error * scale[:, None] * torch.randn(x.shape, generator=draw)

            noise = law.draw("test", keys, (64,))
            with torch.no_grad():
                parts = [integrate(FieldFlow(velocity, t_end=0.999), x, grid).x for x in noise.split(250)]
            found[f"error {error}, D = {degrees:g}"] = distance(torch.cat(parts), data)
    return found


CLAIMS: dict[str, Callable[[int], dict[str, float]]] = {
    claim.__name__: claim
    for claim in (
        rectified_flow,
        boss,
        score_implicit_matching,
        interpolants,
        second_noise,
        rf_plus_plus,
        slimflow,
        rectified_diffusion,
        any_step,
        pfgm_plus_plus,
    )
}


ELSEWHERE = {
    "instaflow": "is of images: run `python -m benchmarks.claims_on_images instaflow`",
    "flowturbo": "is of images: run `python -m benchmarks.samplers_on_images flowturbo` for its solver, and "
    "`python -m benchmarks.claims_on_images flowturbo` for its refiner",
    "latent_flow_matching": "can't be run offline: it needs CelebA-HQ and a trained autoencoder",
}
"""What is said of works that have no claim on the mixture."""


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(CLAIMS)
    if others := [f"{name} {ELSEWHERE[name]}" for name in names if name in ELSEWHERE]:
        sys.exit("\n".join(others))
    if unknown := [name for name in names if name not in CLAIMS]:
        sys.exit(f"unknown claim {unknown[0]!r}; there are: {', '.join(CLAIMS)}")
    for name in names:
        began = perf_counter()
        by_seed = [CLAIMS[name](seed) for seed in SEEDS]
        print(f"\n{CLAIMS[name].__doc__}")
        for label in by_seed[0]:
            values = torch.tensor([found[label] for found in by_seed])
            error = float(values.std()) / len(SEEDS) ** 0.5
            print(f"  {label:<44}{float(values.mean()):>9.2f} ± {error:.2f}")
        print(f"  ({perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
