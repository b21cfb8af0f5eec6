"""Claims of papers on images: the chain trains both sides of each, and its evaluation compares them.

Run `python -m benchmarks.claims_on_images NAME [SOURCE [SEED ...]]` in a checkout (digits, seeds 0, 1 and 2).
Each seed runs the chain of params.yaml in a variant whose reflowed models and students are those of the
claim; what variants share is made once. Printed is the distance to the data over that of the converged
teacher, with its error, recall, how far samples are from the teacher's of the same noise, and the accuracy of
classes if the model has any, for each seed (docs/evaluation-protocol.md); then what a sample costs: weights,
millions of multiply-accumulates, and microseconds of one thread, all models in turn but for fine runs.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks._latency import milliseconds
from benchmarks._students import STRAIGHT, compare, run_chain
from fewstep.checkpoint import load_model
from fewstep.draws import draws_of
from fewstep.flow import as_flow
from fewstep.grids import Grid
from fewstep.solvers import integrate

Section = dict[str, dict[str, Any]]

DEMO: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
ANY_STEP, ONE_STEP = DEMO["distill"]["any-step"], DEMO["distill"]["one-step"]
QUARTER = {"name": "unet", "width": 8, "multipliers": [1, 2]}
"""A network of a quarter of the demo's weights."""
PAIRS: dict[str, Any] = {"model": "base", "pairs": 12_000, "solver": "ab2", "nfe": 16}
NO_MODELS: dict[str, Section] = {name: {} for name in ("couple", "reflow", "trajectories", "distill")}
BASE = DEMO["pretrain"]["base"]
DIFFUSION = {"base": BASE | {"path": "vp", "prediction": "noise"}}
CONVERTED = Path("data/converted")
"""The weights of `DIFFUSION`, called the velocity of a flow on the linear path."""
ON_POLICY = {"batch": 128, "betas": [0.0, 0.99], "warmup": 20, "decay": "cosine", "ema": 0.99}
"""Trainings of on-policy distillation, but for steps and learning rate."""
FEWER: dict[str, dict[str, int]] = {"patches": {"evaluate.samples": 500, "evaluate.blocks": 4}}
"""Settings of `evaluate` by source, where a sample costs more: fewer samples, or fine runs take longest."""
TIMED, ROUNDS = 128, 20
"""Samples that are made at once, and how often, to measure their time."""


def training(steps: int, rate: float) -> dict[str, Any]:
    """Return the settings of a training."""
    fixed = {"batch": 128, "warmup": 50, "decay": "cosine", "ema": 0.998}
    return {"steps": steps, "learning_rate": rate, **fixed}


def reflowed(pairs: int, **methods: dict[str, Any]) -> dict[str, Section]:
    """Return sections in which several methods learn from so many pairs, made alike."""
    settings = {"init": "base", "train": training(700, 1e-3)}
    return {
        "couple": {key: {**PAIRS, "pairs": pairs} for key in methods},
        "reflow": {name: {**settings, "method": {"name": "reflow", **m}} for name, m in methods.items()},
    }


def student(method: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return the settings of a student of the pretrained model."""
    return {"method": method, "teacher": "base", "nfe": 1, "train": training(1000, 1e-3), **settings}


def rf_plus_plus() -> dict[str, Section]:
    """RF++, reflow at one call: times, and the distance between data and its estimate."""
    features = {"distance": "huber", "feature_weight": 1.0}
    return reflowed(
        4000,
        uniform={"times": "uniform"},
        u_shaped={},
        huber={"distance": "huber"},
        features=features,
        near_data={**features, "feature_growth": "near_data"},
    ) | {"distill": {}}


def slimflow() -> dict[str, Section]:
    """SlimFlow, a quarter of the weights from scratch: annealing, guidance by the flow, other methods."""
    sections = reflowed(12_000, plain={}, annealed={"anneal": 0.5})
    for settings in sections["reflow"].values():
        settings |= {"model": QUARTER, "train": training(1500, 2e-3)}
    own = {"init": "annealed", "teacher": "annealed", "train_on": "couple/annealed"}
    return sections | {
        "search": DEMO["search"] | {"annealed": {"method": "uniform", "teacher": "annealed", "budgets": [1]}},
        "distill": {
            "endpoint": student({"name": "endpoint"}, **own),
            "flow_guided": student({"name": "flow_guided"}, **own),
            "small": {**ANY_STEP, "init": "base", "model": QUARTER},
            "small-1": {**ONE_STEP, "init": "small"},
        },
    }


def flow_maps() -> dict[str, Section]:
    """Flow maps with as many steps of training: from trajectories, from pairs, from data and the teacher."""
    any_nfe = {"init": "base", "nfe": "any", "train": ANY_STEP["train"]}
    one = {"init": "base", "train_on": "prepare", "train": ANY_STEP["train"]}
    return {
        "couple": DEMO["couple"] | {"many": PAIRS},
        "distill": {
            "flow_map": {**ANY_STEP, "init": "base"},
            "meanflow": student({"name": "meanflow"}, train_on="couple/many", **any_nfe),
            "lagrangian": student({"name": "flow_map_distillation"}, train_on="prepare", **any_nfe),
            "shortcut": student({"name": "shortcut"}, train_on="prepare", **any_nfe),
            "consistency": student({"name": "consistency"}, **one),
            "continuous": student({"name": "consistency", "kind": "continuous"}, **one),
        },
    }


def the_map_in_few_calls() -> dict[str, Section]:
    """Students that keep the teacher's map: at one call, and one for any number of calls."""
    own = {"init": "any-step", "train_on": "couple/many"}
    near = {"steps": 150, "learning_rate": 2.0e-5, **ON_POLICY}
    return {
        "couple": DEMO["couple"] | {"many": PAIRS},
        "distill": {
            "any-step": ANY_STEP,
            "endpoint": student({"name": "endpoint"}, **own),
            "features": student({"name": "endpoint", "feature_weight": 0.1}, **own),
            "dmd": student(
                {"name": "dmd", "regression_weight": 0.5, "fake_warmup": 100}, **own, train=near, monitor={}
            ),
            "adversarial": student({"name": "adversarial"}, **own, train=training(300, 2e-4), monitor={}),
            "any-near": student(
                {"name": "anyflow", "map_weight": 1.0, "fake_warmup": 200, "steps": [1, 1, 2, 4, 8]},
                init="any-step",
                train_on="trajectories/base",
                nfe="any",
                train=near | {"steps": 200},
            ),
        },
    }


def rectified_diffusion() -> dict[str, Any]:
    """Rectified Diffusion: reflow of a diffusion model as it is, and as a flow; then students."""
    by_paper = {"name": "reflow", "times": "uniform"}
    by_code = by_paper | {"compare": "data", "distance": "huber_each"}
    own = {
        "init": "base",
        "train_on": "trajectories/base",
        "nfe": 4,
        "train": {**training(300, 5e-4), "batch": 64},
    }
    as_it_is = reflowed(PAIRS["pairs"], diffusion={}, paper=by_paper, code=by_code)
    as_a_flow = reflowed(PAIRS["pairs"], flow={}, flow_code=by_code)
    for settings in as_a_flow["reflow"].values():
        settings["init"] = "converted"
    return {
        "pretrain": DIFFUSION | {"converted": {"checkpoint": str(CONVERTED)}},
        "evaluate.reference": "base",
        **{name: as_it_is[name] | as_a_flow[name] for name in as_it_is},
        "search": DEMO["search"]
        | {"diffusion": {"method": "uniform", "teacher": "diffusion", "budgets": [1]}},
        "distill": {
            "phased": student({"name": "phased"}, **own),
            "straighten": student({"name": "straighten"}, **own),
            "consistency": student({"name": "consistency"}, init="base", train_on="prepare"),
            "consistency-2": student(
                {"name": "consistency"}, init="diffusion", teacher="diffusion", train_on="prepare"
            ),
        },
    }


def perflow() -> dict[str, Section]:
    """PeRFlow: phases from stored trajectories or from data, by where they end or by their velocities."""
    own = {"init": "base", "nfe": 4, "train": {**training(300, 5e-4), "batch": 64}}
    stored, data = own | {"train_on": "trajectories/base"}, own | {"train_on": "prepare"}
    from_data = {"name": "phased", "learn_from": "data"}
    return {
        "couple": {},
        "reflow": {},
        "distill": {
            "straighten": student({"name": "straighten"}, **stored),
            "ends": student({"name": "phased"}, **stored),
            "ends-data": student(from_data, **data),
            "velocities": student({"name": "phased", "compare": "velocity"}, **stored),
            "velocities-data": student(from_data | {"compare": "velocity"}, **data),
        },
    }


def instaflow() -> dict[str, Any]:
    """InstaFlow: one call from a guided teacher's pairs, after guided reflow and without it."""
    guidance = 2.0
    pairs = PAIRS | {"guidance": guidance, "nfe": 32}
    method = {"name": "flow_matching", "label_dropout": 0.1}
    return {
        "pretrain": {"base": BASE | {"conditional": True, "method": method}},
        "couple": {"guided": pairs},
        "reflow": {"guided": {"init": "base", "train": training(700, 1e-3)}},
        "search": {
            "base": DEMO["search"]["base"] | {"budgets": [1], "guidance": guidance},
            "guided": {"method": "uniform", "teacher": "guided", "budgets": [1]},
        },
        "trajectories": {},
        "distill": {
            "reflowed": student(
                {"name": "endpoint"}, init="guided", teacher="guided", train_on="couple/guided"
            ),
            "direct": student({"name": "endpoint"}, init="base", train_on="couple/guided"),
        },
    }


def any_number_of_calls(steps: int = 8000, then: int = 1000, trajectories: int = 96_000) -> dict[str, Any]:
    """AnyFlow: a flow map of four times the weights, from many trajectories; and its second stage."""
    search = DEMO["search"]["base"]
    stage = {"name": "anyflow", "map_weight": 1.0, "fake_warmup": 1000, "steps": [1, 1, 2, 4, 8, 8]}
    return {
        "couple": {},
        "reflow": {},
        "search": {"base": search | {"method": search["method"] | {"fine_steps": 32}}},
        "trajectories": {"base": DEMO["trajectories"]["base"] | {"samples": trajectories}},
        "distill": {
            "any-step": ANY_STEP
            | {
                "init": "base",
                "model": {"name": "unet", "width": 32, "multipliers": [1, 2]},
                "train": ANY_STEP["train"] | {"steps": steps},
            },
            "any-near": student(
                stage,
                init="any-step",
                train_on="trajectories/base",
                nfe="any",
                train={"steps": then, "learning_rate": 2.0e-5, **ON_POLICY},
            ),
        },
    }


def any_number_of_calls_for_longer() -> dict[str, Any]:
    """AnyFlow: twice the steps of both stages, more trajectories, and a third with a critic; takes hours."""
    sections = any_number_of_calls(16_000, 2000, 256_000)
    near = sections["distill"]["any-near"]
    critic = near["method"] | {"gan_weight": 2.0, "steps": [1, 4, 8, 8]}
    training = near["train"] | {"steps": 150, "learning_rate": 1.0e-5}
    sections["distill"]["any-critic"] = near | {"method": critic, "init": "any-near", "train": training}
    return sections


def one_for_all() -> dict[str, Section]:
    """One student for any number of calls, and one for each that took as long to train."""
    straight = {**STRAIGHT, "method": {"name": "straighten"}}
    return {
        "couple": DEMO["couple"] | {"many": PAIRS},
        "distill": {
            "any-step": ANY_STEP,
            "endpoint": student(
                {"name": "endpoint"}, init="round1", train_on="couple/many", train=ANY_STEP["train"]
            ),
            "straight-4": straight | {"nfe": 4, "train": {**training(700, 5e-4), "batch": 64}},
            "straight-8": straight | {"nfe": 8, "train": {**training(350, 5e-4), "batch": 64}},
        },
    }


def flowturbo() -> dict[str, Any]:
    """FlowTurbo: a model of whose calls a small refiner takes some, chosen by what a sample may cost."""
    return {
        "couple": {},
        "reflow": {},
        "trajectories": {},
        "search": {"base": DEMO["search"]["base"] | {"budgets": [1]}},
        "distill": {
            "turbo": student(
                {"name": "refiner", "span": 0.3},
                init="base",
                train_on="prepare",
                nfe="any",
                model={"name": "unet", "width": 4, "multipliers": [1]},
                train=training(1500, 1e-3),
            )
        },
        "evaluate.refined": {"budget": {"model": "base", "refiner": "turbo", "budget": [4, 8, 16]}},
    }


def dmd2() -> dict[str, Section]:
    """DMD2: four calls without a critic, with one of its own, and with one on the fake network's features."""
    four = DEMO["distill"]["boss-4"]
    method = {name: value for name, value in four["method"].items() if name != "gan_weight"}
    noised = four["method"] | {"gan_loss": "logistic", "critic_sees": "noised"}
    return {
        "distill": {
            "any-step": ANY_STEP,
            "no-critic": four | {"method": method},
            "critic": four,
            "noised": four | {"method": noised},
            "fake-critic": four | {"method": noised | {"critic": "fake"}},
        }
    }


def convert(base: Path) -> None:
    """Write the weights of a model as those of a flow: its output is called the velocity."""
    shutil.rmtree(CONVERTED, ignore_errors=True)
    shutil.copytree(base, CONVERTED)
    config = json.loads((base / "config.json").read_text()) | {"path": "linear", "prediction": "velocity"}
    (CONVERTED / "config.json").write_text(json.dumps(config))


CLAIMS: dict[str, Callable[[], dict[str, Any]]] = {
    claim.__name__: claim
    for claim in (
        rf_plus_plus,
        slimflow,
        rectified_diffusion,
        perflow,
        instaflow,
        flow_maps,
        the_map_in_few_calls,
        one_for_all,
        any_number_of_calls,
        any_number_of_calls_for_longer,
        flowturbo,
        dmd2,
    )
}


def measured(claim: str, source: str, seed: int) -> dict[str, str]:
    """Return what came of the models of a claim, by model and NFE."""
    sections = CLAIMS[claim]()
    of_all = {"prepare.source": source, "seed": seed} | FEWER.get(source, {})
    if "converted" in sections.get("pretrain", {}):
        convert(run_chain({**NO_MODELS, **of_all, "pretrain": DIFFUSION}) / "models" / "base")
    artifacts = run_chain({**sections, **of_all})
    rows = json.loads((artifacts / "evaluate" / "metrics.json").read_text())["rows"]
    models = {name for section in ("reflow", "distill") for name in sections.get(section, {})}
    shown = [row for row in rows if row["model"] in models or row["grid"] == "fine" or refined(row)]
    torch.set_num_threads(1)
    few = {
        row["name"]: sampling(artifacts, row) for row in shown if not (row["grid"] == "fine" or refined(row))
    }
    took = milliseconds(few, ROUNDS)
    return {
        f"{row['name']:<20}": f"{row['fd_over_teacher']:6.2f} ± {row['fd_over_teacher_se']:.2f} "
        f"({row['recall']:.3f}{told(row['endpoint_rmse'])}{told(row['class_accuracy'])}; "
        f"{row['parameters']:,}, {row['macs_in_all'] / 1e6:.2f} M, "
        + (f"{1000 * median(took[row['name']]) / TIMED:.0f} us)" if row["name"] in took else "not timed)")
        for row in shown
    }


def refined(row: dict[str, Any]) -> bool:
    """Return whether a row is of a model with a refiner beside it."""
    return row["solver"].startswith("heun_pc, ")


def sampling(artifacts: Path, row: dict[str, Any]) -> Callable[[], object]:
    """Return what makes `TIMED` samples of a model as a row of the evaluation says."""
    model = load_model(artifacts / "models" / row["model"]).eval()
    ((noise, given),) = draws_of(model, "latency", 0, range(TIMED), batch=TIMED)
    flow = as_flow(model, guidance=row["guidance"] / model.config.baked_guidance)
    grid = Grid(tuple(row["times"]), solver=row["solver"])
    return lambda: integrate(flow, noise, grid, **given)


def told(number: float | None) -> str:
    """Return a number that a row may lack, with what parts it from the one before."""
    return "" if number is None else f", {number:.3f}"


if __name__ == "__main__":
    compare(CLAIMS, measured)
