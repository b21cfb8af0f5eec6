"""Files in the folder FEWSTEP_PLUGINS add a method, search, solver, model and data source to the chain."""

import copy
import importlib
import json
import sys
from typing import Annotated, Any

import pytest
import yaml
from pydantic import ValidationError
from workspace import CHECKOUT, Workspace

from fewstep import data, registry
from fewstep.errors import UserError
from stages.settings import messages
from stages.settings.fields import Plugin, Settings

FILES = {
    "data/three_dots.py": '''
"""Three dots in the plane."""

from dataclasses import dataclass

import numpy as np

from fewstep.data import Toy


@dataclass(frozen=True, kw_only=True)
class ThreeDots(Toy):
    """Normal noise of 0.1 around the corners of a triangle."""

    pieces = 3

    def draw(self, piece, random):
        """See Toy.draw."""
        corners = np.array([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        return corners[piece] + 0.1 * random.standard_normal((len(piece), 2))
''',
    "models/layer_pair.py": '''
"""Two layers that see the point and the time."""

from dataclasses import dataclass

from fewstep.lazy import lazy_imports

from fewstep.errors import UserError

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class LayerPair:
    """Settings of the network."""

    width: int = 16

    def build(self, shape, classes):
        """Return the network."""
        if len(shape) != 1:
            raise UserError(f"layer_pair takes points, not {shape}")

        class Network(torch.nn.Module):
            def __init__(self, width):
                super().__init__()
                self.first, self.last = torch.nn.Linear(shape[0] + 1, width), torch.nn.Linear(width, shape[0])

            def forward(self, x, t, label=None):
                return self.last(self.first(torch.cat([x, t[:, None]], dim=1)).relu())

        return Network(self.width)
''',
    "methods/plain_regression.py": '''
"""Flow matching with the times between 0 and 1 at random, and nothing else."""

from dataclasses import dataclass, replace

from fewstep import paths, randomness
from fewstep.training.distances import l2
from fewstep.training.method import Method


@dataclass(frozen=True, kw_only=True)
class PlainRegression(Method):
    """Learns from data, or from pairs if these are asked for."""

    learn_from: str = "data"

    @property
    def needs(self):
        """See Method.needs."""
        return replace(super().needs, stream=self.learn_from)

    def loss(self, nets, batch, network, progress, keys):
        """See Method.loss."""
        data = batch["data"]
        noise = batch.get("noise", randomness.noises("train.noise", keys, tuple(data.shape[1:])))
        point = paths.get("linear").sample(noise, data, randomness.uniforms("train.time", keys))
        return l2(nets["student"](point.x, point.t) - point.velocity)
''',
    "methods/wants_more.py": '''
"""A method that no stage can run yet."""

from dataclasses import dataclass

from fewstep.training.method import Method, Needs


@dataclass(frozen=True, kw_only=True)
class WantsMore(Method):
    """Needs what it is told to."""

    need: str = "data"

    @property
    def needs(self):
        """See Method.needs."""
        return Needs(stream="pairs", **{self.need: True})
''',
    "searches/growing.py": '''
"""Steps that grow by a factor."""

from dataclasses import dataclass

from fewstep.searching.closed_form import ClosedForm


@dataclass(frozen=True, kw_only=True)
class Growing(ClosedForm):
    """A closed form."""

    factor: float = 1.5

    def times(self, steps, start, end):
        """See ClosedForm.times."""
        sizes = [self.factor**i for i in range(steps)]
        share = [sum(sizes[:i]) / sum(sizes) for i in range(1, steps)]
        return (start, *(start + (end - start) * s for s in share), 1.0)
''',
    "solvers/ralston.py": '''
"""Ralston's method: the second order rule of least error bound."""


class Ralston:
    """Second order, two velocities a step."""

    order = 2
    velocities_per_step = 2
    slopes_kept = 0

    def step(self, flow, x, t, t_next, carry):
        """See Solver.step; Ralston 1962."""
        h = t_next - t
        first = flow(x, t)
        return x + h * (first + 3 * flow(x + 2 / 3 * h * first, t + 2 / 3 * h)) / 4, None
''',
}
TRAIN = {"steps": 20, "batch": 32, "learning_rate": 2.0e-3}
PARAMS = {
    "seed": 0,
    "adopt": {},
    "nets": {"metric": {"steps": 20, "clusters": 3}, "monitor": {"steps": 5}},
    "prepare": {
        "source": "three_dots",
        "source_options": {"count": 200},
    },
    "pretrain": {
        "base": {
            "method": "plain_regression",
            "model": {"name": "layer_pair", "width": 8},
            "train": TRAIN,
            "gates": {"loss_ratio": None},
        }
    },
    "couple": {
        "round1": {
            "model": "base",
            "pairs": 64,
            "held_out": 32,
            "solver": "ralston",
            "nfe": 8,
            "gates": "warn",
        }
    },
    "reflow": {
        "round1": {
            "init": "base",
            "method": {"name": "plain_regression", "learn_from": "pairs"},
            "train": TRAIN,
        }
    },
    "search": {
        "base": {
            "teacher": "base",
            "method": {"name": "growing", "factor": 2.0},
            "budgets": [2],
            "solver": "ralston",
            "report_noises": 16,
        },
        "round1": {
            "teacher": "round1",
            "method": {"name": "growing", "factor": 2.0},
            "budgets": [2],
            "report_noises": 16,
        },
    },
    "trajectories": {},
    "distill": {
        "own-2": {
            "method": {"name": "plain_regression", "learn_from": "pairs"},
            "init": "round1",
            "teacher": "round1",
            "train_on": "couple/round1",
            "nfe": 2,
            "train": TRAIN,
        }
    },
    "export": {},
    "evaluate": {"samples": 50, "blocks": 2, "nfe": [2], "reference_solver": "ralston", "reference_nfe": 8},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with settings that name plug-ins, and the plug-ins in another one."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in FILES.items():
        file = folder / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip())
    (folder / "project").mkdir()
    work = Workspace(folder / "project")
    work.environment |= {"PYTHONPATH": str(CHECKOUT), "FEWSTEP_PLUGINS": str(folder / "own")}
    (work / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    return work


CHAIN = (
    *("prepare", "nets", "pretrain base", "couple round1", "reflow round1"),
    *("search base", "search round1", "distill own-2", "evaluate"),
)


def test_a_chain_of_plug_ins_runs(project):
    for stage in CHAIN:
        project.sh(f"python -m stages.{stage}")

    def read(file):
        return json.loads((project / "artifacts" / file).read_text())

    for model in ("base", "round1", "own-2"):
        assert read(f"models/{model}/config.json")["architecture"] == {"name": "layer_pair", "width": 8}
    for model, solver in (("base", "ralston"), ("round1", "euler")):
        (grid,) = read(f"search/{model}/grids.json")["grids"].values()
        assert grid["times"] == pytest.approx([0, 1 / 3, 1])
        assert grid["solver"] == solver
    assert read("couple/round1/manifest.json")["config"]["solver"] == "ralston"
    for stage in ("models/round1", "models/own-2"):
        assert read(f"{stage}/manifest.json")["config"]["method"]["learn_from"] == "pairs"
    entries = {row["name"] for row in read("evaluate/metrics.json")["rows"]}
    assert {"base@2", "base@4/growing", "round1@2", "round1@2/growing", "own-2@2"} <= entries


def test_a_process_that_never_asked_the_registry_imports_a_plug_in_too(project):
    code = (
        "from fewstep.methods.plain_regression import PlainRegression; print(PlainRegression().needs.stream)"
    )
    assert project.sh(f"python -c '{code}'") == "data\n"


@pytest.mark.parametrize(
    ("section", "need", "told"),
    [
        ("distill", "conditions", "distill.own-2.method wants_more: it needs a model with classes"),
        ("reflow", "data", "reflow.round1.method wants_more trains students; use it in distill"),
        ("reflow", "teacher", "reflow.round1.method wants_more trains students; use it in distill"),
        ("reflow", "conditions", "reflow.round1.method wants_more: it needs a model with classes"),
        ("pretrain", "second_time", "pretrain.base.method wants_more learns from pairs, not from data"),
    ],
)
def test_a_need_that_a_stage_cannot_supply_is_refused_before_any_work(project, section, need, told):
    params = copy.deepcopy(PARAMS)
    (key,) = params[section]
    params[section][key]["method"] = {"name": "wants_more", "need": need}
    wrong = project.folder.parent / f"{section}-{need}"
    wrong.mkdir()
    (wrong / "params.yaml").write_text(yaml.safe_dump(params))
    said = project.sh(f"cd {wrong} && python -m stages.prepare", ok=False)
    assert told in said
    assert "Traceback" not in said
    assert not (wrong / "artifacts").exists()


def test_a_plug_in_may_not_have_the_name_of_one_of_fewstep(tmp_path, monkeypatch):
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers" / "heun.py").write_text("")
    monkeypatch.setenv("FEWSTEP_PLUGINS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"solvers/heun\.py has the name of a file of fewstep\.solvers; rename"
    ):
        registry.available("fewstep.solvers")


def test_a_folder_of_plug_ins_that_is_not_there_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_PLUGINS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"FEWSTEP_PLUGINS '.*nowhere' is no folder"):
        registry.available("fewstep.methods")


PLAIN = "class Wrong:\n    width: int = 8\n"
ODD = "from dataclasses import dataclass\n\n\nclass Odd: ...\n\n\n@dataclass\nclass Wrong:\n    width: {}\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return what writes a plug-in that this process then finds, and returns its file."""

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(text)
        package = importlib.import_module(f"fewstep.{file.parent.name}")  # before it looks for plug-ins
        monkeypatch.setenv("FEWSTEP_PLUGINS", str(tmp_path))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{file.stem}", None)
        del sys.modules[f"{package.__name__}.{file.stem}"]  # and once more after the test
        return file

    return write


@pytest.mark.parametrize("kind", ["models", "methods", "searches"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_package\n", " imports no_such_package, and there is no such module; install it"),
        ("from math import no_such_name\n", " can't be imported (line 1): ImportError: cannot import name"),
        ("\nraise ValueError('hi\\nyou')\n", " can't be imported (line 2): ValueError: hi; mend the file"),
        ("raise KeyError\n", " can't be imported (line 1): KeyError; mend the file"),
        (PLAIN, ": Wrong is no dataclass, whose fields are its options; put @dataclass("),
        ("Wrong = 3\n", " does not define Wrong, the class that its name stands for"),
        (ODD.format("Odd = None"), ": an option of Wrong has a type that no setting can have: "),
        (ODD.format("'Nowhere' = None"), ": an option of Wrong has a type that no setting can have: "),
    ],
)
def test_a_wrong_plug_in_is_told_with_its_file_in_one_line(own, kind, text, told):
    file = own(f"{kind}/wrong.py", text)

    class Config(Settings):
        chosen: Annotated[Any, Plugin(f"fewstep.{kind}")]

    with pytest.raises(ValidationError) as caught:
        Config(chosen={"name": "wrong"})
    (line,) = messages.explain(caught.value, Config, "here")
    assert line.startswith(f"here.chosen: {file}{told}")
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["solvers", "couplings"])
def test_what_has_no_options_need_be_no_dataclass(own, kind):
    own(f"{kind}/plain_one.py", "class PlainOne: ...\n")
    assert registry.find(f"fewstep.{kind}", "plain_one").__name__ == "PlainOne"


def test_a_source_of_data_that_is_no_dataclass_is_told(own, tmp_path):
    own("data/plain_dots.py", "class PlainDots: ...\n")
    with pytest.raises(UserError, match=r"data/plain_dots\.py: PlainDots is no dataclass"):
        data.source_for("plain_dots", tmp_path)
