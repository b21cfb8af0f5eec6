"""Settings that are right in themselves but not together are refused before any work, without torch."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from students import with_own_starts

from fewstep import registry
from fewstep.errors import UserError
from fewstep.solvers import get, velocities
from stages.settings import checks
from stages.settings.params import Params, deciding
from stages.settings.steps import broken_steps

DEMO = yaml.safe_load(Path("params.yaml").read_text())
RAW = with_own_starts(DEMO)

GUIDED = {
    "pretrain__base__conditional": True,
    "pretrain__base__method": {"name": "flow_matching", "label_dropout": 0.1},
    "couple__round1__guidance": 2.0,
}

ANY_STEP = {
    "trajectories__base__keep": "all",
    "distill__any_at_step": {
        "method": "flow_map",
        "init": "base",
        "teacher": "base",
        "train_on": "trajectories/base",
        "nfe": "any",
        "train": {"steps": 10},
    },
}


def changed(**settings):
    """Return settings with some, named by their path, changed."""
    raw = copy.deepcopy(RAW)
    for path, value in settings.items():
        *sections, last = path.split("__")
        section = raw
        for name in sections:
            section = section[name.replace("_at_", "-")]
        section[last.replace("_at_", "-")] = copy.deepcopy(value)
    return raw


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate__nfe": [0]}, r"evaluate\.nfe\[0\] should be greater than or equal to 1"),
        ({"evaluate__nfe": []}, r"evaluate\.nfe should have at least 1 item, got \[\]"),
        (
            {"distill__boss_at_4__lora": {}, "distill__boss_at_4__model": {"name": "unet"}},
            r"distill\.boss-4\.lora adapts the weights of init, and model draws others",
        ),
        (
            {"distill__straight_at_4__lora": {}, "distill__boss_at_4__lora": {"rank": 8}},
            r"distill\.boss-4\.lora continues the adapter of distill\.straight-4; set it to the same",
        ),
        (
            {"reflow__round1__lora": {}, "reflow__round1__model": {"name": "unet"}},
            r"reflow\.round1\.lora adapts the weights of init",
        ),
        ({"distill__boss_at_4__lora": {"rank": 0}}, r"distill\.boss-4\.lora.*rank must be 1 or more, got 0"),
        ({"evaluate__nfe": [4, 4]}, "names a number twice"),
        (
            {"evaluate__reference_nfe": 63, "evaluate__reference_solver": "heun"},
            "reference_nfe 63: a step of heun takes 2 NFE",
        ),
        ({"search__base__budgets": [0]}, r"search\.base\.budgets\[0\] should be greater"),
        ({"search__base__budgets": [1, 2, 4, 8, 100]}, "budget 100 does not fit a fine grid of 16"),
        ({"search": {}}, "search is empty"),
        ({"couple__round1__calls": 64}, "couple.round1.calls is not a setting; did you mean 'nfe'?"),
        (
            {"distill__boss_at_4__coupling": "prepare"},
            "boss-4.coupling is not a setting; did you mean 'train_on'?",
        ),
        ({"pretrain__base__given": "x"}, "given is not a setting; did you mean 'checkpoint'?"),
        (
            {"distill__one_at_step__method": {"name": "sim", "head_start": 3}},
            "method.head_start is not a setting; did you mean 'fake_warmup'?",
        ),
        (
            {"distill__boss_at_4__method": "distribution"},
            "unknown method 'distribution'; did you mean 'dmd'?",
        ),
        (
            {"search__base__method": "endpoint"},
            "unknown search 'endpoint'; did you mean 'coordinate_descent'?",
        ),
        (
            {"couple__round1__nfe": 63, "couple__round1__solver": "heun"},
            r"couple\.round1\.nfe 63: a step of heun takes 2 NFE",
        ),
        ({"couple__round1__guidance": 2.0}, r"couple\.round1\.guidance 2\.0 needs class-conditional"),
        (
            {"couple__round1__guidance": 2.0, "pretrain__base__conditional": True},
            r"couple\.round1\.guidance 2\.0 needs a model that was trained with hidden labels: set "
            r"pretrain\.base\.method\.label_dropout, such as to 0\.1",
        ),
        (
            {"distill__boss_at_4__method": {"name": "dmd", "guidance": 3.0}},
            r"distill\.boss-4\.method\.guidance 3\.0 needs class-conditional models",
        ),
        ({"couple__round1__guidance": float("nan")}, r"couple\.round1\.guidance should be a finite number"),
        ({"couple__round1__model": "boss-4"}, "'boss-4' is trained only at the timesteps of its grid"),
        ({"couple__round1__model": "nobody"}, "'nobody' is no model; there are: base, round1"),
        ({"reflow__round1__init": "round1"}, "is the model it makes"),
        ({"reflow__round1__method": "flow_matching"}, "learns from data, not"),
        ({"reflow__round1__method": "endpoint"}, "trains students; use it in distill"),
        ({"pretrain__base__method": "reflow"}, "learns from pairs, not from data"),
        (
            {"pretrain__base__method": {"name": "flow_matching", "label_dropout": 0.1}},
            r"base\.method flow_matching: label_dropout 0\.1 needs.*\(pretrain\.base\.conditional is false\)",
        ),
        (
            {"reflow__round1__method": {"name": "reflow", "label_dropout": 0.1}},
            r"round1\.method reflow: label_dropout 0\.1 needs a model with classes, or other conditions; set",
        ),
        (
            {
                "pretrain__base__conditional": True,
                "pretrain__base__method": {"name": "flow_matching", "coupling": "optimal_transport"},
            },
            r"coupling optimal_transport is for models without classes.*pretrain\.base\.conditional is true",
        ),
        (
            {"distill__boss_at_4__method": "flow_matching"},
            r"distill\.boss-4\.method flow_matching learns from data; here fit: adversarial, .*straighten$",
        ),
        (
            {"distill__boss_at_4__method": {"name": "reflow", "label_dropout": 0.1}},
            r"distill\.boss-4\.method reflow: label_dropout 0\.1 needs",
        ),
        (
            {"distill__one_at_step__teacher": "round1"},
            r"method sim compares scores, but 'round1' learned from what a model made, and gives no scores",
        ),
        (
            {"pretrain__base__method": {"name": "flow_matching", "coupling": "optimal_transport"}},
            r"distill\.boss-4\.method dmd compares scores, but pretrain\.base\.method\.coupling opt",
        ),
        (
            {"pretrain__base__noise": {"name": "student_t", "degrees": 128}},
            r"distill\.boss-4\.method dmd .* pretrain\.base\.noise, student_t with .* set it to gaussian",
        ),
        (
            {"pretrain__base__noise": "student_t", "pretrain__base__prediction": "score"},
            r"pretrain\.base\.noise: prediction score, .* holds for normal noise alone",
        ),
        (
            {
                "pretrain__base__noise": "student_t",
                "reflow__round1__method": {"name": "reflow", "anneal": 0.5},
            },
            r"reflow\.round1\.method reflow: annealing, .* holds for normal noise alone",
        ),
        ({"pretrain__base__noise": {"name": "student_t", "degrees": 2}}, r"noise.*a number above 2"),
        (
            {"distill__one_at_step__method": {"name": "sim", "regression_weight": 0.5}},
            r"distill\.one-step: method sim with regression_weight learns from couple, not from ",
        ),
        (
            {
                "distill__boss_at_4__method": {"name": "dmd", "gan_weight": 0.1},
                "distill__boss_at_4__train_on": "couple/round1",
            },
            r"distill\.boss-4: method dmd with gan_weight learns from real data, not from couple/round1",
        ),
        (
            {"distill__boss_at_4__method": {"name": "dmd", "gan_weight": 0.1, "regression_weight": 0.5}},
            r"distill\.boss-4: method dmd with regression_weight learns from couple, not from prepare",
        ),
        (
            {"distill__boss_at_4__init": "strait-4"},
            r"boss-4\.init 'strait-4' is no model; did you mean 'straight-4'",
        ),
        (
            {"distill__boss_at_4__teacher": "boss-8"},
            r"boss-4\.teacher 'boss-8' is a student, which can't teach; there are: base, round1",
        ),
        (
            {"distill__boss_at_4__init": "boss-8"},
            r"boss-4\.init 'boss-8' takes 8 NFE, the student is to take 4; start from a student of as many",
        ),
        (
            {"distill__straight_at_4__init": "boss-4"},
            r"distill\.boss-4\.init 'straight-4'.* makes a cycle",
        ),
        (
            ANY_STEP | {"distill__one_at_step__nfe": "any"},
            r"one-step\.nfe any is for flow maps; method sim nee",
        ),
        (
            ANY_STEP | {"distill__any_at_step__nfe": 4},
            r"any-step\.nfe 4: method flow_map trains for any number; set it to any",
        ),
        (
            ANY_STEP | {"distill__any_at_step__nfe": 0},
            r"any-step\.nfe: should be a whole number from 1, or any",
        ),
        (
            ANY_STEP | {"trajectories__base__keep": "timesteps"},
            r"any-step: method flow_map learns from states between the timesteps; set trajectories\.base",
        ),
        (ANY_STEP | {"distill__any_at_step__train_on": "couple/round1"}, "learns from trajectories, not"),
        (ANY_STEP | {"distill__any_at_step__init": "boss-4"}, r"any-step\.init 'boss-4' takes 4 NFE"),
        (
            {
                "distill__endpoint__method": {"name": "endpoint", "feature_weight": 1},
                "distill__endpoint__monitor": {},
            },
            r"distill\.endpoint\.monitor sees the features that the method's own loss pulls at",
        ),
        (
            ANY_STEP | {"couple__round1__model": "any-step"},
            "'any-step' gives average velocities; choose from",
        ),
        (
            ANY_STEP | {"distill__endpoint__init": "any-step", "distill__endpoint__method": "reflow"},
            r"endpoint\.init 'any-step' is a flow map, whose steps method reflow would make it forget",
        ),
        (
            {"reflow__round1__method": "flow_map"},
            r"reflow\.round1\.method flow_map learns from trajectories, not pairs; take one that does, such",
        ),
        (
            ANY_STEP | {"distill__any_at_step__method": "meanflow"},
            "method meanflow learns from couple, not from trajectories/base; set train_on to couple/round1",
        ),
        (
            ANY_STEP | {"distill__any_at_step__method": "flow_map_distillation"},
            "method flow_map_distillation learns from prepare, not from trajectories/base",
        ),
        (
            {"distill__boss_at_4__method": "consistency"},
            r"nfe 4: method consistency trains to jump .* set it to 1",
        ),
        (
            {"distill__one_at_step__method": {"name": "consistency", "guidance": 2.0}},
            r"one-step\.method\.guidance 2\.0 needs class-conditional models",
        ),
        (
            ANY_STEP
            | {"distill__one_at_step__method": "consistency", "distill__one_at_step__init": "any-step"},
            r"one-step\.init 'any-step' is a flow map, whose steps method consistency would make it forget",
        ),
        (
            {"pretrain__base__method": {"name": "meanflow", "learn_from": "data"}},
            "meanflow trains students; use it in distill",
        ),
        (
            {"distill__straight_at_4__method": {"name": "phased", "steps_per_phase": 3}},
            r"distill\.straight-4\.method phased: 4 steps make no whole phases of 3",
        ),
        (
            {"distill__endpoint__method": "flow_guided", "distill__endpoint__nfe": 2},
            r"distill\.endpoint\.method flow_guided: it trains a student of one step",
        ),
        (
            {"pretrain__base__path": {"name": "linear", "gamma": 2}},
            "pretrain.base.prediction velocity has no bound near data on a path with gamma",
        ),
        (
            {"prepare__source": "eight_gaussians"}
            | {"distill__endpoint__method": {"name": "endpoint", "feature_weight": 1}},
            r"distill\.endpoint\.method compares features of images, but .* eight_gaussians makes points",
        ),
        (
            {"prepare__source": "x.npz", "prepare__source_options": {"latents": True}}
            | {"reflow__round1__method": {"name": "reflow", "feature_weight": 1}},
            r"reflow\.round1\.method compares features of images, but prepare\.source makes latents",
        ),
        ({"seed": 2**32}, r"whole number from 0 to 2\*\*32 - 1"),
    ],
)
def test_settings_that_would_fail_hours_later_are_refused_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        checks.check(Params(changed(**settings)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pretrain__base__method": "reflow"},
            "pretrain.base.method reflow learns from pairs, not from data",
        ),
        ({"reflow__round1__method": "shortcut"}, "reflow.round1.method shortcut learns from data, not pairs"),
        (
            {"evaluate__refined": {"a": {"model": "base", "refiner": "x", "blocks": [[0, 4]]}}},
            "evaluate.refined.a.blocks[0][2] is missing",
        ),
    ],
)
def test_one_mistake_is_told_once(settings, message):
    with pytest.raises(UserError) as caught:
        checks.check(Params(changed(**settings)))
    assert str(caught.value).startswith(f"params.yaml has mistakes:\n  {message}")
    assert str(caught.value).count("\n") == 1


def test_a_flow_map_is_right_and_a_student_of_any_nfe_may_start_from_it():
    checks.check(Params(changed(**ANY_STEP)))
    checks.check(Params(changed(**ANY_STEP | {"distill__boss_at_4__init": "any-step"})))


@pytest.mark.parametrize(
    ("method", "train_on", "nfe"),
    [
        ("flow_map_distillation", "prepare", "any"),
        ("meanflow", "couple/round1", "any"),
        ({"name": "meanflow", "learn_from": "data", "power": 0.75}, "prepare", "any"),
        ("shortcut", "prepare", "any"),
        ("consistency", "prepare", 1),
    ],
)
def test_what_each_flow_map_learns_from(method, train_on, nfe):
    student = {"method": method, "train_on": train_on, "nfe": nfe}
    raw = changed(**ANY_STEP)
    raw["distill"]["any-step"] |= student
    checks.check(Params(raw))


def test_guidance_that_every_section_takes_up_is_right():
    methods = {
        f"distill__{key}__method": {"name": "dmd", "guidance": 2.0} for key in ("boss_at_4", "boss_at_8")
    }
    methods["distill__one-step__method"] = {"name": "sim", "guidance": 2.0}
    checks.check(Params(changed(**GUIDED, search__base__guidance=2.0, **methods)))


def test_a_name_for_two_models_is_refused():
    raw = changed()
    raw["distill"]["round1"] = raw["distill"]["one-step"]
    with pytest.raises(UserError, match=r"reflow\.round1 and distill\.round1 would both be the model"):
        checks.check(Params(raw))


def test_a_flow_map_may_not_learn_longer_steps_than_it_takes():
    """Nor what a student of a grid made of one; but fresh weights have nothing to forget."""
    raw = changed(**ANY_STEP)
    raw["distill"]["again"] = raw["distill"]["straight-4"] | {"init": "any-step"}
    raw["distill"]["straight-4"] |= {"init": "again", "method": {"name": "phased", "steps_per_phase": 2}}
    told = r"distill\.straight-4\.init 'again' is a flow map, .*; set steps_per_phase to 1"
    with pytest.raises(UserError, match=told):
        checks.check(Params(raw))
    raw["distill"]["straight-4"]["model"] = {"name": "unet", "width": 8}
    checks.check(Params(raw))


@pytest.mark.parametrize("solver", registry.available("fewstep.solvers"))
def test_the_nfe_of_a_step_are_those_of_the_solver(solver):
    each, asked = 2 * get(solver).velocities_per_step, 2 * velocities(solver, 2)
    assert not broken_steps("nfe", asked // 2, solver, guidance=1.0)
    assert not broken_steps("nfe", asked, solver, guidance=2.0)
    remedy = (
        f", and the first 2 more; ask for 2 more than a multiple of {each}"
        if solver == "heun_pc"
        else f"; ask for a multiple of {each}"
    )
    told = broken_steps("nfe", asked + 1, solver, guidance=2.0)
    assert told == [f"nfe {asked + 1}: a step of {solver} takes {each} NFE here{remedy}"]


def test_gates_judge_a_result_and_decide_nothing_of_it():
    strict, lax = (
        Params(changed(pretrain__base__gates={"loss_ratio": ratio})).config("pretrain", "base")
        for ratio in (0.5, None)
    )
    assert deciding(strict) == deciding(lax)
    assert "gates" not in deciding(strict)


def test_a_stage_says_what_is_wrong_with_another_section(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(evaluate__samples=1)))
    here = os.environ | {"PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "stages.prepare"]
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 1
    assert "evaluate.samples should be greater than or equal to 50" in done.stderr
    assert "Traceback" not in done.stderr
