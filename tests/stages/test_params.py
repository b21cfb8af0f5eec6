"""Settings: one message says all that is wrong in params.yaml, where, and what would be right."""

import math
import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from fewstep import registry
from fewstep.errors import UserError
from fewstep.renamed import RENAMED, nearest
from fewstep.settings import TrainSettings
from stages import couple, distill, evaluate, prepare, pretrain, trajectories
from stages.settings import checks, discovery, messages
from stages.settings.fields import MethodPlugin, Plugin, Settings, SolverName
from stages.settings.params import Params, canonical


class Inner(Settings):
    width: int = 8


class Config(Settings):
    """Settings of a made-up stage."""

    pairs: int = Field(ge=1)
    """Noise-data pairs to write."""
    guidance: float = 1.0
    """Guidance scale."""
    solver: SolverName = "euler"
    """The solver."""
    inner: Inner = Inner()
    """Nested settings."""
    train: TrainSettings | None = None
    """A plain dataclass of the library."""
    method: MethodPlugin | None = None
    """A file of the library."""


@pytest.fixture
def stages(monkeypatch):
    """Replace the real stages by prepare, and couple, which has keys."""

    class Keyless:
        Config = Inner
        output = staticmethod(lambda key: "artifacts/prepare")

    class Keyed:
        output = staticmethod(lambda key: f"artifacts/couple/{key}")

    Keyed.Config = Config
    modules = {"prepare": Keyless, "couple": Keyed}
    monkeypatch.setattr(discovery, "names", lambda: sorted(modules))
    monkeypatch.setattr(discovery, "load", modules.__getitem__)
    return modules


def problems(**couple):
    return problems_of({"seed": 0, "prepare": {}, "couple": {"round1": {"pairs": 5} | couple}})


def problems_of(raw):
    with pytest.raises(UserError) as caught:
        checks.check(Params(raw))
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"guidence": 2}, "couple.round1.guidence is not a setting; did you mean 'guidance'?"),
        (
            {"zzz": 2},
            "couple.round1.zzz is not a setting; there are: pairs, guidance, solver, inner, train, method",
        ),
        ({"pairs": 0}, "couple.round1.pairs should be greater than or equal to 1, got 0"),
        ({"inner": {"widht": 3}}, "couple.round1.inner.widht is not a setting; did you mean 'width'?"),
        (
            {"solver": "huen"},
            "couple.round1.solver: unknown solver 'huen'; did you mean 'heun'? "
            "(there are: ab2, euler, heun, heun_pc, midpoint, rk4)",
        ),
        (
            {"train": {"steps": 3, "batch": 2, "lerning_rate": 1}},
            "couple.round1.train.lerning_rate is not a setting; did you mean 'learning_rate'?",
        ),
        ({"method": 3}, "couple.round1.method must be a name, or a mapping with a name, got 3"),
        (
            {"method": {"name": "dmd", "guidance": float("nan")}},
            "couple.round1.method.guidance should be a finite number, got .nan",
        ),
        (
            {"method": {"name": "sim", "times": [0.1, float("inf")]}},
            "couple.round1.method.times[1] should be a finite number, got .inf",
        ),
        (
            {"method": {"name": "straighten", "on_polcy": True}},
            "couple.round1.method.on_polcy is not a setting; did you mean 'on_policy'?",
        ),
    ],
)
def test_each_mistake_is_named_with_its_remedy(stages, setting, message):
    assert message in problems(**setting)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"conditional": "abc"}, ["conditional should be a valid boolean, or a list, got 'abc'"]),
        ({"path": [1]}, ["path should be a valid string, or a mapping, got [1]"]),
        ({"conditional": [1, "a"]}, ["conditional[0] should be a valid string, got 1"]),
        (
            {"method": {"name": "consistency", "guidance": "x"}},
            ["method.guidance should be a valid number, or a list, got 'x'"],
        ),
    ],
)
def test_a_setting_of_several_types_is_named_once(setting, told):
    with pytest.raises(ValidationError) as caught:
        pretrain.Config.model_validate({"train": {"steps": 1}} | setting)
    said = messages.explain(caught.value, pretrain.Config, "pretrain.base")
    assert said == [f"pretrain.base.{line}" for line in told]


@pytest.mark.parametrize(
    ("model", "settings", "place"),
    [
        (couple.Config, {"model": "base", "pairs": 9, "tolerance": math.inf}, "tolerance"),
        (pretrain.Config, {"gates": {"loss_ratio": math.inf}, "train": {"steps": 1}}, "gates.loss_ratio"),
        (pretrain.Config, {"train": {"steps": 1, "clip": math.inf}}, "train.clip"),
    ],
)
def test_numbers_are_finite(model, settings, place):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(settings)
    assert f"stage.{place} should be a finite number, got .inf" in messages.explain(
        caught.value, model, "stage"
    )


@pytest.mark.parametrize(
    ("model", "old", "new"),
    [
        (couple.Config, "calls", "nfe"),
        (evaluate.Config, "calls", "nfe"),
        (evaluate.Config, "reference_calls", "reference_nfe"),
        (pretrain.Config, "given", "checkpoint"),
        (distill.Config, "coupling", "train_on"),
    ],
)
def test_a_setting_by_its_old_name_gets_todays_as_suggestion(model, old, new):
    with pytest.raises(ValidationError) as caught:
        model.model_validate({old: 1})
    told = messages.explain(caught.value, model, "stage")
    assert f"stage.{old} is not a setting; did you mean {new!r}?" in told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"name": "distribution"}, "unknown method 'distribution'; did you mean 'dmd'?"),
        ({"name": "score"}, "unknown method 'score'; did you mean 'sim'?"),
        ({"name": "dmd", "head_start": 3}, "head_start is not a setting; did you mean 'fake_warmup'?"),
        ({"name": "sim", "anchor": 1.0}, "anchor is not a setting; did you mean 'regression_weight'?"),
    ],
)
def test_a_method_or_option_by_its_old_name_gets_todays_as_suggestion(stages, setting, told):
    (line,) = problems(method=setting)
    assert told in line


def test_a_search_and_a_value_by_their_old_names_get_todays_as_suggestion():
    with pytest.raises(UserError, match="unknown search 'endpoint'; did you mean 'coordinate_descent'"):
        registry.find("fewstep.searches", "endpoint")
    with pytest.raises(ValidationError) as caught:
        trajectories.Config.model_validate({"samples": 1, "keep": "knots"})
    (line,) = messages.explain(caught.value, trajectories.Config, "trajectories.base")
    assert line == (
        "trajectories.base.keep should be 'timesteps' or 'all', got 'knots'; did you mean 'timesteps'?"
    )


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_suggested_only_where_todays_exists(old):
    assert nearest(old, [RENAMED[old], "unrelated"]) == RENAMED[old]
    assert nearest(old, ["unrelated"]) is None


def test_an_unknown_method_is_answered_with_those_that_exist(stages):
    (line,) = problems(method="reflwo")
    assert line.startswith(
        "couple.round1.method: unknown method 'reflwo'; did you mean 'reflow'? (there are: "
    )


def test_a_value_that_a_dataclass_refuses_keeps_its_reason(stages):
    (line,) = problems(train={"steps": -3, "batch": 2})
    assert line.startswith("couple.round1.train: ")
    assert "-3" in line


def test_every_problem_of_every_section_comes_in_one_message(stages):
    lines = problems_of(
        {"seed": -1, "cuple": {}, "prepare": {"width": "x"}, "couple": {"a": {}, "b": {"pairs": 0}}}
    )
    assert lines == [
        "seed should be a whole number from 0 to 2**32 - 1, got -1",
        "cuple is no stage; did you mean 'couple'?",
        "couple.a.pairs is missing",
        "couple.b.pairs should be greater than or equal to 1, got 0",
        "prepare.width should be a valid integer, unable to parse string as an integer, got 'x'",
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (1, "couple.1: write a word for 1; DVC silently defines no stage for other keys"),
        (None, "couple.null: write a word for null; DVC silently defines no stage for other keys"),
        ("a@b", "couple.a@b: names are letters, digits, - and _, or DVC can't address them"),
        ("a.b", "couple.a.b: names are letters, digits, - and _, or DVC can't address them"),
    ],
)
def test_keys_that_dvc_cannot_address_are_refused(stages, key, message):
    assert problems_of({"seed": 0, "prepare": {}, "couple": {key: {"pairs": 1}}}) == [message]


@pytest.mark.parametrize("name", ["size", "nfiles"])
def test_names_that_dvc_does_not_compare_are_refused(stages, name):
    raw = {"seed": 0, "prepare": {}, "couple": {"round1": {"pairs": 4, "inner": {name: 8}}}}
    with pytest.raises(UserError, match=rf"couple\.round1\.inner\.{name} can't be a setting's name"):
        checks.check(Params(raw))
    raw["couple"]["round1"]["inner"] = [3, {"path": {name: 8}}]
    with pytest.raises(UserError, match=rf"couple\.round1\.inner\.1\.path\.{name} can't be a setting's name"):
        checks.check(Params(raw))


def test_sections_must_be_mappings(stages):
    assert problems_of({"seed": 0, "prepare": 3, "couple": [1]}) == [
        "couple should be a mapping of names to settings, such as {}, got [1]",
        "params.yaml: prepare must be a mapping of settings, got 3",
    ]
    assert problems_of({"seed": 0, "couple": {}}) == [
        "prepare is missing: every stage needs a section of its settings, such as `prepare: {}`"
    ]


def test_checks_across_sections_are_asked(stages):
    stages["prepare"].check = staticmethod(lambda params: [f"{len(params.keys('couple'))} are too many"])
    assert problems_of({"seed": 0, "prepare": {}, "couple": {"a": {"pairs": 1}, "b": {"pairs": 1}}}) == [
        "2 are too many"
    ]


def test_canonical_settings_round_trip_with_defaults():
    class Full(Settings):
        method: MethodPlugin
        solver: SolverName = "heun"

    short = Full(method="reflow")
    text = canonical(short)
    assert '"solver":"heun"' in text
    assert canonical(Full.model_validate_json(text)) == text
    assert short.method.named()["name"] == "reflow"


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Inner().width = 3


def test_an_empty_registry_says_so(tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    class Empty(Settings):
        plugin: Annotated[object, Plugin("hollow")]

    with pytest.raises(ValueError, match="usable plugin"):
        Empty(plugin="x")


def test_the_real_settings_are_right_and_need_no_torch():
    code = (
        "import sys; from stages.settings import checks; checks.read_checked(); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=discovery.FOLDER.parent, text=True) == "False\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no params.yaml"), ("a: [", "no valid YAML"), ("- 1", "must hold a mapping")],
)
def test_a_file_that_holds_no_settings(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        Params.read()


@pytest.mark.parametrize(("old", "new"), [("metric_nets", "nets.metric"), ("monitor_net", "nets.monitor")])
def test_a_setting_that_moved_to_another_section_is_named_with_its_new_place(old, new):
    with pytest.raises(ValidationError) as caught:
        prepare.Config.model_validate({"source": "digits", old: {"steps": 1}})
    assert f"prepare.{old} is {new} now" in messages.explain(caught.value, prepare.Config, "prepare")
