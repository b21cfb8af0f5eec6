"""A method, a search, a solver, a model and a data source: each one new file, and the chain runs with it."""

import json

import pytest
from chain import tiny
from chain.checkout import Checkout

FILES = {
    "data/spiral.py": '''
"""Spiral: points on a spiral in the plane."""
from dataclasses import dataclass

import torch

from fewstep.data import Samples


@dataclass(frozen=True, kw_only=True)
class Spiral:
    """Points at even angles."""

    count: int = 400

    def load(self, root):
        angle = torch.linspace(0, 9, self.count)
        return Samples(data=angle[:, None] / 9 * torch.stack([angle.cos(), angle.sin()], dim=1))
''',
    "models/narrow.py": '''
"""Narrow: one hidden layer; torch is imported at the top, as in any file of one's own."""
from dataclasses import dataclass

import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size + 1, width), nn.SiLU(), nn.Linear(width, size))

    def forward(self, x, t, label=None):
        return self.layers(torch.cat([x, t[:, None]], dim=1))


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """One hidden layer for points."""

    width: int = 16

    def build(self, shape, classes):
        return Network(shape[0], self.width)
''',
    "solvers/ralston.py": '''
"""Ralston: second order, with the smallest bound on its error."""


class Ralston:
    """Two velocities a step."""

    order = 2
    velocities_per_step = 2
    slopes_kept = 0

    def step(self, flow, x, t, t_next, carry):
        h = t_next - t
        slope = flow(x, t)
        return x + h / 4 * (slope + 3 * flow(x + 2 / 3 * h * slope, t + 2 / 3 * h)), None
''',
    "searches/early.py": '''
"""Early: short steps near the noise."""
from dataclasses import dataclass

from fewstep.searching.closed_form import ClosedForm


@dataclass(frozen=True, kw_only=True)
class Early(ClosedForm):
    """Squares of equal steps."""

    power: float = 2.0

    def times(self, steps, start, end):
        return tuple(start + (1 - start) * (k / steps) ** self.power for k in range(steps + 1))
''',
    "methods/chord.py": '''
"""Chord: regress the chord of each pair at a random time of the student's grid."""
from dataclasses import dataclass

import torch

from fewstep import randomness
from fewstep.flow import as_flow
from fewstep.training.method import Method, Needs


@dataclass(frozen=True, kw_only=True)
class Chord(Method):
    """Liu et al. 2022 (arXiv 2209.03003)."""

    trained_times = "grid"
    beside_data: bool = False

    @property
    def needs(self):
        return Needs(stream="pairs", data=self.beside_data)

    def loss(self, nets, batch, network, progress, keys):
        times = torch.tensor(nets["student"].config.grid.times[:-1])
        t = times[(randomness.uniforms("train.chord", keys) * len(times)).long()]
        noise, data = batch["noise"], batch["data"]
        x = (1 - t[:, None]) * noise + t[:, None] * data
        return (as_flow(nets["student"])(x, t) - (data - noise)).square().mean(dim=1)
''',
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Checkout:
    """A checkout with one new file of each kind, and settings that name them."""
    checkout = Checkout.create(tmp_path_factory.mktemp("plugins") / "checkout")
    for name, text in FILES.items():
        (checkout / "fewstep" / name).write_text(text.lstrip())
    made = {"nfe": 8, "solver": "ralston", "pairs": 128, "held_out": 16, "gates": "warn"}
    student = {"method": "chord", "init": "pretrain", "teacher": "pretrain", "train_on": "couple/own"}
    checkout.write_params(
        checkout.params()
        | {
            "prepare": checkout.params()["prepare"] | {"source": "spiral", "source_options": {"count": 600}},
            "pretrain": {
                "method": "flow_matching",
                "model": {"name": "narrow", "width": 8},
                "train": tiny.train(20, 1e-2),
                "gates": {"loss_ratio": None},
            },
            "couple": {"own": {"model": "pretrain"} | made},
            "reflow": {},
            "trajectories": {},
            "search": {
                "pretrain": {
                    "teacher": "pretrain",
                    "method": {"name": "early", "power": 1.5},
                    "budgets": [2],
                    "report_noises": 8,
                }
            },
            "distill": {"own-2": student | {"nfe": 2, "train": tiny.train(8, 1e-3)}},
        }
    )
    return checkout


def test_the_chain_runs_with_a_file_of_each_kind(extended):
    ran = extended.repro("distill@own-2").ran
    assert sorted(ran) == ["couple@own", "distill@own-2", "prepare", "pretrain", "search@pretrain"]
    config = json.loads((extended / "artifacts/models/own-2/config.json").read_text())
    assert config["architecture"] == {"name": "narrow", "width": 8}
    assert config["grid"]["times"] == [0.0, pytest.approx(0.5**1.5), 1.0]
    facts = json.loads((extended / "artifacts/couple/own/manifest.json").read_text())["facts"]
    assert (facts["solver"], facts["nfe"]) == ("ralston", 8)


def test_a_need_that_no_stage_supplies_is_refused_by_name(extended):
    params = extended.params()
    extended.set(distill={"own-2": {"method": {"name": "chord", "beside_data": True}}})
    said = extended.refused("python -m stages")
    extended.write_params(params)
    assert "distill.own-2.method chord needs data, which this stage can't supply; take another" in said


def test_an_odd_nfe_is_refused_by_what_the_new_solver_says(extended):
    params = extended.params()
    extended.set(couple={"own": {"nfe": 7}})
    said = extended.refused("python -m stages")
    extended.write_params(params)
    assert "couple.own.nfe 7: a step of ralston takes 2 NFE here; ask for a multiple of 2" in said
