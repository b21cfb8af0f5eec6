"""One stage is one file, one section of params.yaml, one entry of dvc.yaml and one Config, of one name."""

import ast
import dataclasses
import inspect
import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from pydantic import BaseModel

from fewstep.settings import MonitorSettings, TrainSettings
from stages.settings import checks, discovery
from stages.settings.params import Params

ROOT = Path(__file__).parents[1]
STAGES = discovery.names()
PARAMS = Params.read(ROOT / "params.yaml")
PAIRS = [(stage, key) for stage in STAGES for key in PARAMS.keys(stage)]


@pytest.fixture(scope="module")
def resolved():
    """Each stage as DVC understands dvc.yaml: its command, inputs, parameters and outputs."""
    with Repo(str(ROOT)) as repo:
        return {
            node.addressing: {
                "cmd": node.cmd,
                "deps": {dep.def_path for dep in node.deps if not hasattr(dep, "params")},
                "params": {name for dep in node.deps if hasattr(dep, "params") for name in dep.params},
                "outs": [out.def_path for out in node.outs],
            }
            for node in repo.index.stages
        }


def test_files_sections_and_dvc_entries_are_the_same():
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    sections = [name for name in PARAMS.raw if name != "seed"]
    assert sorted(dvc) == sorted(sections) == STAGES
    assert [name for name in dvc if "foreach" in dvc[name]] == [s for s in dvc if discovery.keyed(s)]


def test_params_yaml_is_right_and_every_key_has_its_stage(resolved):
    checks.check(PARAMS)
    assert sorted(resolved) == sorted(discovery.address(stage, key) for stage, key in PAIRS)


@pytest.mark.parametrize(("stage", "key"), PAIRS)
def test_dvc_gives_each_stage_what_it_reads_and_takes_what_it_writes(resolved, stage, key):
    entry, module = resolved[discovery.address(stage, key)], discovery.load(stage)
    read = set(PARAMS.inputs(stage, key).values())
    covered = {
        dep for dep in entry["deps"] if any(path == dep or path.startswith(f"{dep}/") for path in read)
    }
    assert all(any(path == dep or path.startswith(f"{dep}/") for dep in entry["deps"]) for path in read)
    # A stage may read a file of the user's, and only some methods and monitors ask the nets.
    assert entry["deps"] - covered <= {"data", "artifacts/nets"}
    assert entry["outs"] == [module.output(key)]
    assert entry["cmd"] == f"python -m stages.{stage}"  # no key, which a shell would read


@pytest.mark.parametrize(("stage", "key"), PAIRS)
def test_a_stage_depends_on_its_seed_version_and_section(resolved, stage, key):
    section = f"{stage}.{key}" if key else stage
    named = resolved[discovery.address(stage, key)]["params"]
    assert {"seed", "VERSION", section} <= named
    others = named - {"seed", "VERSION", section}
    assert others <= ({"pretrain", "adopt", "reflow", "search", "distill"} if stage == "evaluate" else set())


def test_no_output_leaves_the_cache_or_outlives_a_run():
    """`cache: false` is never pushed, and `persist: true` is never in the run-cache."""
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in dvc for out in stage.get("do", stage)["outs"]]
    assert all(isinstance(out, str) for out in outs)


def configs(model: type) -> list[type]:
    """Return a Config and the settings nested in it."""
    found = [model]
    kinds = model.model_fields.values() if issubclass(model, BaseModel) else []
    for kind in (field.annotation for field in kinds):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += configs(kind)
    return found


def explained(settings: type) -> set[str]:
    """Return the names in a class of this project, and in its bases, that a docstring follows.

    Pydantic could read them too, but would do so whenever a stage starts.
    """
    found = set()
    for owner in settings.__mro__:
        if owner.__module__.partition(".")[0] in ("fewstep", "stages"):
            (code,) = ast.parse(inspect.getsource(owner)).body
            for field, text in pairwise(code.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert isinstance(text.value.value, str)
                    found.add(field.target.id)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_explained(stage):
    for model in configs(discovery.load(stage).Config):
        assert model.__doc__
        assert model.model_fields.keys() <= explained(model)


@pytest.mark.parametrize("settings", [TrainSettings, MonitorSettings])
def test_every_setting_of_a_training_is_explained(settings):
    assert {field.name for field in dataclasses.fields(settings)} <= explained(settings)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_version_config_inputs_output_and_run(stage):
    module = discovery.load(stage)
    assert module.VERSION == discovery.version(stage) >= 1
    assert list(inspect.signature(module.run).parameters) == ["config", "job"]
    assert module.__doc__.startswith(f"{stage.capitalize()}: ")


def test_every_config_survives_json():
    for stage, key in PAIRS:
        config = PARAMS.config(stage, key)
        plain = json.loads(json.dumps(config.model_dump(mode="json")))
        assert type(config).model_validate(plain) == config
