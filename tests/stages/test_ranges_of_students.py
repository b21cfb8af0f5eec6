"""Students that take guidance as an input, in a chain on labelled points, and what settings say of them."""

import csv
import json

import numpy as np
import pytest
import torch
from jobs import job_in
from test_across_sections import GUIDED, changed
from test_named_conditions import MLP, ran

from fewstep.checkpoint import load_config, load_model
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.solvers import integrate
from stages import distill, evaluate, export, nets, prepare, pretrain, search
from stages.settings import checks
from stages.settings.models import guidance_range
from stages.settings.params import Params

RANGE = [1, 3]
TRAIN = {"batch": 64, "learning_rate": 4e-3}
ON_DATA = {"name": "meanflow", "learn_from": "data", "label_dropout": 0.2, "guidance": RANGE}
STUDENTS = {
    "jump": {"method": {"name": "consistency", "guidance": RANGE}, "nfe": 1},
    "map": {"method": ON_DATA, "nfe": "any"},
}
FROM_BASE = {"init": "base", "teacher": "base", "train_on": "prepare"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder in which all stages ran, of two overlapping classes at -1 and 1 on a line."""
    root = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_WORKERS", "1")
        patch.setenv("FEWSTEP_DEVICE", "cpu")
        patch.chdir(root)
        (root / "data").mkdir()
        draw, y = np.random.default_rng(0), np.arange(600) % 2
        x = 0.8 * draw.standard_normal((600, 2)) + np.stack([2 * y - 1, 0 * y], axis=1)
        np.savez(root / "data" / "points.npz", x=x.astype("float32"), y=y)
        ran(root, prepare, {"source": "points.npz"}, {})
        ran(root, nets, {"metric": {"steps": 2, "clusters": 2}, "monitor": {"steps": 1}}, {"data": "prepare"})
        method = {"name": "flow_matching", "label_dropout": 0.2}
        settings = {"method": method, "model": MLP, "conditional": True, "train": TRAIN | {"steps": 300}}
        ran(root, pretrain, settings, {"data": "prepare"}, "base")
        settings = {"teacher": "base", "method": "uniform", "budgets": [1]}
        settings |= {"report_noises": 32, "batch": 32, "truth_steps": 8}
        ran(root, search, settings, dict.fromkeys(["model", "teacher"], "pretrain-base"), "base")
        for name, student in STUDENTS.items():
            ran(root, distill, settings_of(student), inputs_of("pretrain-base"), name)
        models = {"base": "pretrain-base"} | {name: f"distill-{name}" for name in STUDENTS}
        inputs = {"data": "prepare", "nets": "nets", "reference": "pretrain-base"}
        inputs |= {f"model {name}": folder for name, folder in models.items()}
        settings = {"samples": 50, "blocks": 2, "nfe": [1, 2], "reference": "pretrain-base"}
        settings |= {"reference_nfe": 4, "guidance": {"map": [1, 2]}}
        inputs |= {"model pretrain-base": inputs.pop("model base")}
        ran(root, evaluate, settings, inputs)
    return root


def settings_of(student):
    return FROM_BASE | student | {"train": TRAIN | {"steps": 200}}


def inputs_of(init):
    models = {"init": init, "teacher": "pretrain-base", "search": "search-base"}
    return models | {"train_on": "prepare", "data": "prepare"}


def made(folder, scale, count=400):
    model = load_model(folder)
    ((noise, given),) = draws_of(model, "check", 0, range(count), batch=count)
    grid = model.config.grid or uniform(1)
    with torch.no_grad():
        solution = integrate(as_flow(model, guidance=scale), noise, grid, **given)
    return solution, given["label"]


def apart(folder, scale):
    """Return how far the means of the classes are from each other."""
    solution, label = made(folder, scale)
    assert solution.nfe == (1 if "distill" in folder.name else 2)
    return float((solution.x[label == 1].mean(0) - solution.x[label == 0].mean(0)).norm())


@pytest.mark.parametrize("name", STUDENTS)
def test_one_student_is_sampled_at_any_scale_in_one_call(chain, name):
    config = load_config(chain / f"distill-{name}")
    assert (config.guidance_input, config.guidance_range, config.baked_guidance) == (True, (1.0, 3.0), 1.0)
    near, far = (apart(chain / f"distill-{name}", scale) for scale in (1.0, 3.0))
    assert far > near + 0.3


def test_the_evaluation_holds_each_scale_against_the_reference_under_it(chain):
    rows = json.loads((chain / "evaluate" / "metrics.json").read_text())["rows"]
    found = {(row["name"], row["nfe"], row["guidance"], row["teacher"]) for row in rows if row["student"]}
    assert {name: (nfe, guidance) for name, nfe, guidance, _ in found} == {
        "jump@1": (1, 1.0),
        "jump@1, guidance 3": (1, 3.0),
        "map@1": (1, 1.0),
        "map@2": (2, 1.0),
        "map@1, guidance 2": (1, 2.0),
        "map@2, guidance 2": (2, 2.0),
    }
    for name, _, guidance, teacher in found:
        assert teacher.endswith("/fine" if guidance == 1 else f", guidance {guidance:g}"), name
    with (chain / "evaluate" / "curve.csv").open() as file:
        lines = {row["series"] for row in csv.DictReader(file)}
    assert {"jump", "jump, guidance 3", "map, uniform", "map, uniform, guidance 2"} < lines
    assert (chain / "evaluate" / "samples-map-uniform-guidance-2.png").exists()
    assert "jump@1</td><td>own, guidance 3</td>" in (chain / "evaluate" / "report.html").read_text()


def test_the_stage_exports_a_student_at_the_scale_that_is_asked_for(chain, monkeypatch):
    monkeypatch.chdir(chain)
    ran(chain, export, {"formats": ["pt2"], "guidance": 3}, {"model": "distill-jump"}, "jump")
    sampler = torch.export.load(chain / "export-jump" / "sampler.pt2").module()
    model = load_model(chain / "distill-jump")
    ((noise, given),) = draws_of(model, "check", 0, range(400), batch=400)
    torch.testing.assert_close(sampler(noise, **given), made(chain / "distill-jump", 3.0)[0].x)


def spec_of(chain, student, folder):
    job = job_in(
        folder, "distill", "again", inputs={n: chain / p for n, p in inputs_of("distill-map").items()}
    )
    return distill.training_spec(distill.Config(**settings_of(student) | {"init": "map"}), job)


def test_a_student_is_trained_further_over_a_range_and_not_at_one_scale(chain, tmp_path):
    before = load_model(chain / "distill-map")
    wider = spec_of(chain, {"method": ON_DATA | {"guidance": [1, 6]}, "nfe": "any"}, tmp_path).student
    assert wider.config.guidance_range == (1.0, 6.0)
    assert wider.network.state_dict().keys() == before.network.state_dict().keys()
    with pytest.raises(
        UserError, match="map takes guidance from 1 to 3 as an input, which a training at one"
    ):
        spec_of(chain, {"method": "flow_map_distillation", "nfe": "any"}, tmp_path)
    fresh = spec_of(chain, {"method": "flow_map_distillation", "nfe": "any", "model": MLP}, tmp_path).student
    assert (fresh.config.guidance_input, fresh.config.guidance_range) == (False, None)


def told(**settings) -> str:
    """Return what is said of settings of a guidable teacher with changes, nothing if all is well."""
    students = {f"distill__{name}": settings_of(student) for name, student in STUDENTS.items()}
    guidable = GUIDED | {"couple__round1__guidance": 1.0}
    try:
        checks.check(Params(changed(**guidable | students | settings)))
    except UserError as error:
        return str(error)
    return ""


def test_settings_know_the_range_of_a_student():
    assert told() == ""
    raw = changed(**{f"distill__{name}": settings_of(student) for name, student in STUDENTS.items()})
    assert guidance_range(Params(raw), "map") == (1.0, 3.0)
    assert guidance_range(Params(raw), "base") is None
    assert guidance_range(Params(raw), "boss-4") is None


AGAIN = settings_of(STUDENTS["map"]) | {"init": "map"}
FLOW_MAP = {"name": "flow_map_distillation"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"distill__again": AGAIN | {"method": FLOW_MAP}},
            "distill.again.init 'map' takes guidance from 1 to 3 as an input, which a training at one scale",
        ),
        (
            {"pretrain__base__method": "flow_matching"},
            "distill.jump.method.guidance 3.0 needs a model that was trained with hidden labels: set "
            "pretrain.base.method.label_dropout",
        ),
        (
            {"pretrain__base__conditional": False, "pretrain__base__method": "flow_matching"},
            "distill.map.method meanflow: label_dropout 0.2 needs a model with classes",
        ),
        (
            {"pretrain__base__method": "flow_matching"},
            "evaluate holds map against its reference base: guidance 3.0 needs a model that was trained with",
        ),
        (
            {"distill__jump__method": {"name": "consistency", "guidance": [3, 1]}},
            "distill.jump.method: a range of guidance goes from 1, which is none, up to a larger scale",
        ),
        (
            {"distill__jump__method": {"name": "consistency", "guidance": [4]}},
            "a larger scale, such as [1, 4]; got [4]",
        ),
        (
            {"evaluate__guidance": {"map": [1, 5]}},
            "evaluate.guidance.map 5.0 is not among the scales that map was trained with, 1 to 3",
        ),
        ({"evaluate__guidance": {"map": [2, 2]}}, "evaluate.guidance.map [2, 2] names a scale twice"),
        ({"evaluate__guidance": {"map": []}}, "evaluate.guidance.map should have at least 1 item"),
        (
            {"evaluate__guidance": {"boss-4": [2]}},
            "evaluate.guidance.boss-4: boss-4 is no student that takes guidance as an input; there are: jump",
        ),
        (
            {"export__jump": {"guidance": 4.0}},
            "export.jump.guidance 4.0 is not among the scales that jump was trained with, 1 to 3",
        ),
        ({"export__jump": {"guidance": 2.0, "solver": "heun"}}, "export.jump: jump takes its own steps"),
        ({"export__boss_at_4": {"guidance": 2.0}}, "export.boss-4: boss-4 takes its own steps"),
    ],
)
def test_settings_that_do_not_fit_together(settings, message):
    assert message in told(**settings)


def test_settings_that_fit():
    assert told(evaluate__guidance={"map": [1, 2.5, 3]}, export__jump={"guidance": 2.5}) == ""
    assert told(distill__again=AGAIN) == ""
    one = {"evaluate__guidance": {"jump": [1], "map": [1]}, "pretrain__base__method": "flow_matching"}
    assert "evaluate holds" not in told(**one)


def test_a_range_starts_from_a_teacher_that_shows_no_guidance():
    raw = {"couple__round1__guidance": 2.0, "search__base__guidance": 2.0}
    searched = {"method": "uniform", "teacher": "round1", "budgets": [1]}
    jump, mapped = (settings_of(STUDENTS[name]) for name in ("jump", "map"))
    jump, mapped = jump | {"teacher": "round1"}, mapped | {"init": "round1"}
    hides = {"reflow__round1__method": {"name": "reflow", "label_dropout": 0.1}}
    said = told(**raw, **hides, distill__jump=jump, distill__map=mapped, search__round1=searched)
    assert "distill.map.method.guidance [1, 3] starts from 1, but its init round1 shows guidance 2" in said
    assert (
        "distill.jump.method.guidance [1, 3] starts from 1, but its teacher round1 shows guidance 2" in said
    )
