"""Settings of exports that can't be are refused before any work, without torch."""

import copy
import sys
from pathlib import Path

import pytest
import yaml
from students import with_own_starts

from fewstep.errors import UserError
from stages.settings import checks
from stages.settings.params import Params

RAW = with_own_starts(yaml.safe_load(Path("params.yaml").read_text()))
SEARCH = RAW["search"]["base"]
PIPELINE = {"name": "pipeline", "folder": "data/theirs"}
TURBO = {
    "method": "refiner",
    "model": {"name": "unet", "width": 8},
    "init": "base",
    "teacher": "base",
    "train_on": "prepare",
    "nfe": "any",
    "train": {"steps": 10},
}


def with_exports(exports, **sections):
    """Return the demo's settings with exports, and a model of another library with a student of 4 steps."""
    raw = copy.deepcopy(RAW)
    raw["adopt"] = {"theirs": {"folder": "data/theirs"}, "patches": {"folder": "data/p", "format": "sit"}}
    raw["search"] |= {name: SEARCH | {"teacher": name} for name in raw["adopt"]}
    student = {"teacher": "theirs", "init": "theirs", "train_on": "prepare"}
    raw["distill"]["theirs-4"] = raw["distill"]["boss-4"] | student
    for name, section in sections.items():
        raw[name] = raw[name] | section
    return Params(raw | {"export": exports})


@pytest.mark.parametrize(
    ("key", "export"),
    [
        ("boss-4", {}),
        ("boss-4", {"steps": 4}),
        ("base", {"steps": 8, "solver": "heun", "formats": ["pt2"]}),
        ("base", {"steps": 4, "searched": True}),
        ("round1", {"steps": 2}),
        ("theirs-4", {"formats": ["diffusers", PIPELINE]}),
        ("theirs", {"formats": [PIPELINE], "steps": 4, "searched": True}),
        ("patches", {"steps": 4}),
    ],
)
def test_what_can_be_exported_passes(key, export):
    params = with_exports({key: export})
    checks.check(params)
    read = {"model": f"artifacts/models/{key}"}
    if export.get("searched"):
        read["search"] = f"artifacts/search/{key}"
    if PIPELINE in export.get("formats", ()):
        read["pipeline folder"] = "data/theirs"
    assert params.inputs("export", key) == read


LORA = {"formats": ["lora_diffusers"]}


@pytest.mark.parametrize(
    ("key", "export", "told"),
    [
        ("boss-5", {}, "export.boss-5: 'boss-5' is no model; "),
        (
            "boss-4",
            {"formats": ["onix"]},
            "export.boss-4.formats[0]: unknown export 'onix'; did you mean 'onn",
        ),
        ("boss-4", {"formats": []}, "export.boss-4.formats should have at least 1"),
        ("boss-4", {"formats": "pt2"}, "export.boss-4.formats should be a list, got 'pt2'"),
        ("boss-4", {"formats": ["pt2", "pt2"]}, "export.boss-4.formats pt2 is named twice"),
        ("boss-4", {"formats": ["pipeline"]}, "export.boss-4.formats[0].folder is missing"),
        (
            "boss-4",
            {"steps": 8},
            "export.boss-4.steps 8: boss-4 was trained for its own 4 steps alone; leave",
        ),
        ("boss-4", {"solver": "heun"}, "export.boss-4: boss-4 takes its own steps, by euler and without gui"),
        ("boss-4", {"searched": True}, "export.boss-4.searched: boss-4 is not searched; add search.boss-4"),
        ("base", {}, "export.base.steps is missing: base was trained for any number of steps"),
        ("base", {"steps": 0}, "export.base.steps should be greater than or equal to 1"),
        (
            "base",
            {"searched": True},
            "export.base.steps None must be one of search.base.budgets, [1, 2, 4, 8]",
        ),
        ("base", {"searched": True, "steps": 3}, "export.base.steps 3 must be one of search.base.budgets"),
        (
            "base",
            {"searched": True, "steps": 4, "solver": "heun"},
            "export.base.solver heun is not that of search.base, euler; leave it out",
        ),
        (
            "base",
            {"searched": True, "steps": 4, "guidance": 2},
            "export.base.guidance 2.0 must be 1.0, that of",
        ),
        ("base", {"steps": 4, "guidance": 2}, "export.base.guidance 2.0 needs class-conditional models"),
        ("turbo", {"steps": 4}, "export.turbo: a refiner is no flow without its teacher; export that"),
        (
            "boss-4",
            {"formats": ["diffusers"]},
            "boss-4 goes back to pretrain, and not to a network that was",
        ),
        ("patches", {"formats": ["diffusers"], "steps": 4}, "its network is sit, and not one of diffusers"),
        (
            "theirs",
            {"formats": ["diffusers"], "steps": 4, "solver": "heun"},
            "as the solver is heun; take onnx or pt2",
        ),
        (
            "theirs-4",
            {"formats": [PIPELINE | {"folder": "/etc"}]},
            "export.theirs-4.formats: the option folder of pipeline '/etc' must be a folder under data/",
        ),
        (
            "theirs-4",
            LORA,
            "export.theirs-4.formats lora_diffusers holds an adapter alone, and theirs-4 is none",
        ),
        (
            "theirs",
            LORA | {"steps": 4},
            "export.theirs.formats lora_diffusers holds an adapter alone, and theirs",
        ),
    ],
)
def test_what_can_not_be_exported_is_refused(key, export, told):
    with pytest.raises(UserError) as refused:
        checks.check(with_exports({key: export}, distill={"turbo": TURBO}))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"path": "cosine"}, "as its path is cosine, and not linear or table or edm; take onnx or pt2"),
        ({"prediction": "data"}, "as it predicts data, and not noise or reverse_v or reverse_velocity or v;"),
        (
            {"path": {"name": "table"}, "prediction": "reverse_velocity"},
            "predicts reverse_velocity, and not n",
        ),
    ],
)
def test_a_model_that_no_scheduler_follows_is_refused_as_far_as_settings_say_it(declared, told):
    adopt = {"theirs": {"folder": "data/theirs", **declared}}
    with pytest.raises(UserError) as refused:
        checks.check(with_exports({"theirs-4": {"formats": ["diffusers"]}}, adopt=adopt))
    assert told in str(refused.value)
    checks.check(with_exports({"theirs-4": {"formats": ["onnx"]}}, adopt=adopt))


def test_a_student_of_another_architecture_or_a_flow_map_has_no_scheduler():
    student = with_exports({}).raw["distill"]["theirs-4"]
    drawn = {"theirs-4": student | {"method": "endpoint", "model": {"name": "unet"}, "train_on": "couple/c"}}
    couple = {"c": {"model": "theirs", "pairs": 64}}
    with pytest.raises(UserError, match="as its network is unet, and not one of diffusers"):
        checks.check(with_exports({"theirs-4": {"formats": ["diffusers"]}}, distill=drawn, couple=couple))
    anyflow = {"theirs-4": student | {"method": "flow_map_distillation", "nfe": "any", "monitor": None}}
    with pytest.raises(UserError, match="as theirs-4 is a flow map; take onnx or pt2"):
        checks.check(with_exports({"theirs-4": {"formats": ["diffusers"], "steps": 4}}, distill=anyflow))


def test_a_student_with_slow_times_has_no_scheduler():
    student = with_exports({}).raw["distill"]["theirs-4"]
    continuous = {"name": "consistency", "kind": "continuous"}
    changed = {"theirs-4": student | {"method": continuous, "nfe": 1, "monitor": None}}
    with pytest.raises(UserError, match="as the network of theirs-4 was given slow times; take onnx or pt2"):
        checks.check(with_exports({"theirs-4": {"formats": ["diffusers"]}}, distill=changed))


def test_of_a_checkpoint_the_folder_says_what_it_is():
    pretrain = {"base": RAW["pretrain"]["base"] | {"checkpoint": "data/mine"}}
    checks.check(with_exports({"base": {"formats": ["diffusers", "lora_diffusers"]}}, pretrain=pretrain))


def test_a_student_whose_timesteps_were_searched_is_exported_without_its_teachers_guidance():
    raw = with_exports({"straight-4": {"searched": True}}).raw | {"adopt": {}, "couple": {}, "reflow": {}}
    dropout = {"conditional": True, "method": {"name": "flow_matching", "label_dropout": 0.1}}
    raw["pretrain"] = {"base": raw["pretrain"]["base"] | dropout}
    guided = SEARCH | {"guidance": 2.0}
    searched = guided | {"budgets": [4], "method": "coordinate_descent", "report_noises": 64}
    raw["search"] = {"base": guided, "straight-4": searched}
    raw["trajectories"] = {"base": {"samples": 64, "keep": "all"}}
    jittered = raw["distill"]["straight-4"] | {"method": {"name": "straighten", "jitter": 0.3}}
    raw["distill"] = {"straight-4": jittered}
    checks.check(Params(raw))
    raw["export"] = {"base": {"searched": True, "steps": 4}}
    with pytest.raises(UserError, match=r"export\.base\.guidance 1\.0 must be 2\.0, that of the grids of se"):
        checks.check(Params(raw))


def test_a_student_that_never_saw_a_hidden_label_is_not_exported_under_guidance():
    dropout = {"conditional": True, "method": {"name": "flow_matching", "label_dropout": 0.1}}
    pretrain = {"base": RAW["pretrain"]["base"] | dropout}
    flow_map = {"any-step": RAW["distill"]["straight-4"] | {"method": "flow_map", "nfe": "any"}}
    stored, steps = {"base": RAW["trajectories"]["base"] | {"keep": "all"}}, {"steps": 4, "guidance": 3.0}
    params = with_exports({"any-step": steps}, pretrain=pretrain, distill=flow_map, trajectories=stored)
    with pytest.raises(UserError, match=r"any-step\.guidance 3\.0 needs .* hidden labels: set this to 1$"):
        checks.check(params)


def test_an_adapter_may_be_exported_alone():
    student = with_exports({}).raw["distill"]["theirs-4"]
    checks.check(with_exports({"theirs-4": LORA}, distill={"theirs-4": student | {"lora": {}}}))


@pytest.mark.parametrize(
    ("format", "library", "extra"), [("onnx", "onnxruntime", "onnx"), ("diffusers", "diffusers", "foreign")]
)
def test_a_missing_library_is_reported_before_any_work(format, library, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError) as refused:
        checks.check(with_exports({"theirs-4": {"formats": [format]}}))
    told = f"export.theirs-4.formats: the format {format} needs {library}: pip install 'fewstep[{extra}]'"
    assert told in str(refused.value)
