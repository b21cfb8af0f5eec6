"""Blocks of steps beside a refiner, chosen by what they may cost; the refiner's cost counts."""

import re

import pytest
import torch
from pydantic import ValidationError

from fewstep import refining
from fewstep.checkpoint import save_model
from fewstep.draws import draws_of
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.model import ModelConfig, build
from fewstep.solvers import integrate
from stages.evaluation.evaluation import macs_in_all
from stages.evaluation.macs import macs_of
from stages.evaluation.refined import CHOSEN_BY, FINE_STEPS, affordable_best, refined_entries
from stages.settings.refined import RefinedSettings


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")


def network(width, seed=0):
    config = ModelConfig(architecture={"name": "mlp", "width": width, "depth": 1}, shape=(2,))
    made = build(config, seed=seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return made.eval()


def beside(model, width=4):
    return refining.refiner_for(model, {"name": "mlp", "width": width, "depth": 1}, seed=0).eval()


@pytest.mark.parametrize("budget", [3.0, 4.5])
def test_the_blocks_within_a_budget_that_end_nearest_are_taken(budget):
    model = network(64)
    flow, refiner = as_flow(model), beside(model)
    ratio = macs_of(refiner) / macs_of(model)
    assert 0 < ratio < 1
    chosen = affordable_best(model, flow, refiner, budget, 0)
    assert chosen.cost(ratio) <= budget
    ((noise, _),) = draws_of(model, "refined", 0, range(CHOSEN_BY), batch=CHOSEN_BY)
    truth = integrate(flow, noise, uniform(FINE_STEPS, solver="heun_pc")).x

    @torch.no_grad()
    def off(blocks):
        return float((refining.follow(flow, refiner, noise, blocks).x - truth).square().mean())

    everyone = refining.affordable(budget, ratio)
    assert off(chosen) == pytest.approx(min(map(off, everyone)))


def test_entries_of_a_budget_count_the_refiners_cost(tmp_path):
    model = network(64)
    folders = {name: tmp_path / name for name in ("a", "turbo")}
    save_model(folders["a"], model)
    save_model(folders["turbo"], refiner := beside(model))
    asked = {"fast": RefinedSettings(model="a", refiner="turbo", budget=[3, 5])}
    entries = list(refined_entries("a", model, asked, folders, 0))
    assert 1 <= len(entries) <= 2
    for entry in entries:
        blocks, macs = entry.refinement.blocks, macs_of(model)
        assert re.fullmatch(r"a@\d+/fast-h\dp\dr\d", entry.name)
        in_all = macs_in_all(entry, macs, folders)
        assert in_all == entry.nfe * macs + 2 * blocks.refined * macs_of(refiner)
        assert in_all <= 5 * macs
    plain = next(
        refined_entries(
            "a", model, {"b": RefinedSettings(model="a", refiner="turbo", blocks=[(1, 0, 0)])}, folders, 0
        )
    )
    assert macs_in_all(plain, 7, folders) == 14


def test_macs_of_a_refiner_are_those_of_its_network():
    refiner = refining.refiner_for(network(8), {"name": "mlp", "width": 8, "depth": 1}, seed=0)
    assert macs_of(refiner) > macs_of(network(8))  # it takes a velocity, too


@pytest.mark.parametrize("given", [{}, {"blocks": [[1, 0, 0]], "budget": [3]}])
def test_blocks_or_a_budget_are_named_and_not_both(given):
    with pytest.raises(ValidationError, match="set blocks or budget, one of the two"):
        RefinedSettings(model="a", refiner="b", **given)


@pytest.mark.parametrize("budget", [[1.5], [float("nan")]])
def test_a_budget_pays_for_one_step_at_least(budget):
    with pytest.raises(ValidationError):
        RefinedSettings(model="a", refiner="b", budget=budget)
