"""Students that learn equal steps of some numbers alone, as shortcut's do, are asked for no others."""

import pytest
import torch
from flow_maps import as_flow_map
from jobs import job_in
from oracles import gaussian
from test_across_sections import ANY_STEP, changed

from fewstep.checkpoint import load_config, load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import Grid, uniform
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.shortcut import Shortcut
from fewstep.model import ModelConfig, build
from fewstep.solvers import integrate
from stages.evaluation.listed import entries_of
from stages.settings import checks
from stages.settings.params import Params

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
SHORTCUT = ANY_STEP | {
    "distill__any_at_step__method": {"name": "shortcut", "finest": 8},
    "distill__any_at_step__train_on": "prepare",
}
SEARCHED = {"method": "uniform", "teacher": "any-step", "budgets": [2]}


def test_the_method_says_which_steps_it_teaches_and_others_teach_all():
    assert Shortcut(finest=8).trained()["equal_steps"] == 8
    assert FlowMap().trained()["equal_steps"] is None


@pytest.mark.parametrize("path", ["linear", "vp"])
def test_it_takes_equal_steps_of_a_number_that_divides_the_finest(path):
    flow, noise = as_flow(as_flow_map(ORACLE, path=path, equal_steps=8)), ORACLE.noise(9)
    for steps in (1, 2, 4, 8):
        integrate(flow, noise, uniform(steps, start=flow.t_start, end=flow.t_end))
    with pytest.raises(UserError, match="equal steps alone; the grid has 3: take 1, 2, 4 or 8 equal ones"):
        integrate(flow, noise, uniform(3, start=flow.t_start, end=flow.t_end))
    with pytest.raises(UserError, match="the grid has 2, of other lengths: take 1, 2, 4 or 8 equal ones"):
        integrate(flow, noise, Grid((flow.t_start, 0.4, 1.0)))


def test_a_model_directory_says_so_and_is_measured_at_those_numbers_alone(tmp_path):
    config = ModelConfig(architecture={"name": "mlp", "second_time": True}, shape=(2,), equal_steps=8)
    save_model(tmp_path / "short", build(config, seed=0))
    assert load_config(tmp_path / "short").equal_steps == 8
    model = load_model(tmp_path / "short")
    job = job_in(tmp_path, "evaluate", inputs={"model short": tmp_path / "short"})
    assert [entry.name for entry in entries_of("short", model, (1, 3, 4), job)] == ["short@1", "short@4"]
    with pytest.raises(UserError, match="short takes 1, 2, 4 or 8 equal steps; add one of these to eval"):
        entries_of("short", model, (3, 5), job)
    with torch.no_grad(), pytest.raises(UserError, match="the grid has 16: take 1, 2"):
        integrate(as_flow(model), torch.zeros(1, 2), uniform(16))


def test_a_model_of_any_steps_writes_no_number_of_them(tmp_path):
    save_model(tmp_path / "plain", build(ModelConfig(architecture={"name": "mlp"}, shape=(2,)), seed=0))
    assert "equal_steps" not in (tmp_path / "plain" / "config.json").read_text()
    assert load_config(tmp_path / "plain").equal_steps is None


def test_settings_may_ask_for_some_numbers_that_it_knows():
    known = {"evaluate__nfe": [3, 4], "distill__any_at_step__monitor": {"nfe": [1, 4]}}
    checks.check(Params(changed(**SHORTCUT | known | {"export__any_at_step": {"steps": 4}})))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate__nfe": [3, 5]}, r"evaluate\.nfe \[3, 5\] has none for any-step: add 1, 2, 4 or 8"),
        (
            {"distill__any_at_step__monitor": {"nfe": [1, 3]}},
            r"any-step\.monitor\.nfe \[1, 3\]: any-step takes equal steps; name none but 1, 2, 4 or 8",
        ),
        (
            {"export__any_at_step": {"steps": 3}},
            r"any-step\.steps 3: any-step takes equal steps; set it to 1, 2, 4 or 8",
        ),
        ({"distill__any_at_step__nfe": 4}, r"any-step\.nfe 4: method shortcut trains for any number; set it"),
        ({"search__any_at_step": SEARCHED}, r"search\.any-step: any-step was trained for equal steps alone"),
    ],
)
def test_settings_that_ask_for_others_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        checks.check(Params(changed(**SHORTCUT | settings)))
