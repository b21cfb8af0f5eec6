import os
import pydoc
import signal
import subprocess

import pytest
import yaml
from processes import wait_for
from workspace import CHECKOUT

from fewstep.errors import UserError
from flows.workspaces import workspace_lock
from flows.workspaces.variant import Variant
from stages.settings import checks
from stages.settings.params import Params

DEPLOYMENTS = [
    {"parameters": {}} | one
    for one in yaml.safe_load((CHECKOUT / "infra" / "prefect.yaml").read_text())["deployments"]
    if one["name"] in ("chain", "nightly", "sweep")  # nobody starts the others
]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"distil.boss-4.train.steps": 8}, "params.yaml has no distil; did you mean 'distill'?"),
        ({"distill.bos-4.train.steps": 8}, "params.yaml has no distill.bos-4; did you mean 'boss-4'?"),
        (
            {"distill.boss-4.train.stpes": 8},
            "distill.boss-4.train.stpes is not a setting; did you mean 'steps'?",
        ),
        ({"distill.boss-4.train.steps": "many"}, "distill.boss-4.train.steps should be"),
        (
            {"pretrain.base.method.x": 1},
            "pretrain.base.method.x: pretrain.base.method is written as the plain value flow_matching; write "
            "it as a mapping, such as --set 'pretrain.base.method={name: flow_matching, x: 1}'",
        ),
        ({"seed.x": 1}, "seed.x: seed is written as the plain value 0, which has no settings below it"),
        (
            {"distill.any-step.method.x.y": [1]},
            "distill.any-step.method.x is not a setting",
        ),
        (
            {"pretrain.train.steps": 8},
            "params.yaml has no pretrain.train; it is pretrain.KEY.train now; keys are: base",
        ),
        ({"sede": 1}, "params.yaml has no sede; did you mean 'seed'?"),
        ({"seed": -1}, "seed should be a whole number"),
    ],
)
def test_a_wrong_override_is_reported_before_anything_is_made(overrides, told):
    with pytest.raises(UserError) as caught:
        Variant.of(CHECKOUT, overrides)
    assert told in str(caught.value)


def test_an_override_may_set_what_had_its_default():
    raw = Params.read(CHECKOUT / "params.yaml").raw
    assert "clip" not in raw["pretrain"]["base"]["train"]
    clip, steps = "pretrain.base.train.clip", "distill.boss-4.train.steps"
    params = Variant.of(CHECKOUT, {clip: 2.0, steps: 800}).params
    assert params.raw["pretrain"]["base"]["train"]["clip"] == 2.0
    assert params.raw["distill"]["boss-4"]["train"] == raw["distill"]["boss-4"]["train"] | {"steps": 800}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_what_a_deployment_asks_for_passes_the_check_of_a_run(deployment):
    """A flow takes these parameters at night, when nobody reads what is wrong with them."""
    flow = pydoc.locate(deployment["entrypoint"])
    asked = flow.validate_parameters({"root": CHECKOUT} | deployment["parameters"])
    assert deployment["parameters"].keys() <= asked.keys()
    for overrides in (deployment["parameters"].get("overrides", {}), *asked.get("variants", [])):
        assert Variant.of(CHECKOUT, overrides).params.seed == 0


def test_the_nightly_chain_is_small():
    (nightly,) = [one for one in DEPLOYMENTS if one["name"] == "nightly"]
    params = Variant.of(CHECKOUT, nightly["parameters"]["overrides"]).params
    assert params.raw["pretrain"]["base"]["train"]["steps"] == 150
    trained = {f"distill.{key}.train.steps" for key in params.keys("distill")}
    assert trained <= nightly["parameters"]["overrides"].keys()


def test_names_depend_on_settings_alone():
    one, same, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 2})
    params = Params.read(CHECKOUT / "params.yaml")
    names = [Variant(root=CHECKOUT, overrides=each, params=params).name for each in (one, same, other)]
    assert names[0] == names[1] != names[2]


def test_without_overrides_a_variant_is_the_project(toy, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)
    itself = Variant.of(toy.root, {})
    assert itself.folder == itself.prepare() == toy.root
    assert itself.lock == workspace_lock.lock_of(toy.root)


def test_settings_are_decoded_once_for_the_command_the_flow_and_the_workspace(toy, monkeypatch):
    decoded = []
    monkeypatch.setattr(checks, "check", decoded.append)
    toy.edit("params.yaml", "rate: 0.1", "rate: 0.15")  # which no other test has had
    for _ in range(3):
        Variant.of(toy.root, {"last.width": 7}).prepare()
    assert len(decoded) == 1


def test_a_variant_has_the_checkouts_files_as_they_are_and_shares_its_cache(toy_that_ran, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)
    toy, root = toy_that_ran, toy_that_ran.root
    toy.edit(".gitignore", "/artifacts", "/artifacts\n/data/ignored")
    (root / "data" / "ignored").write_text("git does not know this")
    toy.edit("work.py", "at work", "hard at work")
    toy.sh("mkdir ../remote && dvc remote add -q -d store ../remote && dvc repro -q && dvc push -q")
    toy.began()
    state = "git status --porcelain; ls -l --time-style=full-iso artifacts/*; cat dvc.lock params.yaml"
    before = toy.sh(state)
    place = Variant.of(root, {"last.width": 7}).prepare()
    assert toy.sh(state) == before
    assert yaml.safe_load((place / "params.yaml").read_text())["last"] == {"width": 7}
    assert "hard at work" in (place / "work.py").read_text()
    assert (place / "data" / "ignored").exists()
    toy.sh(f"cd {place} && dvc repro -q && cat began")
    assert (place / "began").read_text().split() == ["last", "None"]  # the others came from the cache

    assert "in sync" in toy.sh(f"cd {place} && dvc status --cloud first middle@left middle@right")

    # Renewed, it has what has changed since, what it made itself, and its own memory of that.
    toy.edit("work.py", "hard at work", "still at work")
    (root / "data" / "a").unlink()
    made = (place / "dvc.lock").read_bytes()
    assert Variant.of(root, {"last.width": 7}).prepare() == place
    assert "still at work" in (place / "work.py").read_text()
    assert not (place / "data" / "a").exists()
    assert (place / "artifacts" / "last").exists()
    assert (place / "dvc.lock").read_bytes() == made


SLOW = """
git config filter.slow.smudge 'touch began; sleep 600'
echo '* filter=slow' > .git/info/attributes
"""


def test_locks_of_a_killed_git_in_a_variant_do_not_stop_later_runs(toy, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)
    variant = Variant.of(toy.root, {"last.width": 7})
    place = variant.prepare()
    toy.sh(f"cd {place}\n{SLOW}\nrm work.py")
    checkout = subprocess.Popen(["git", "checkout", "--force", "HEAD"], cwd=place, start_new_session=True)
    wait_for((place / "began").exists)
    os.killpg(checkout.pid, signal.SIGKILL)
    checkout.wait()
    (place / ".git/info/attributes").unlink()
    assert (place / ".git/index.lock").exists()
    (place / ".git/HEAD.lock").touch()  # which a checkout holds too shortly to be killed then
    assert variant.prepare() == place
    assert (place / "work.py").exists()
    assert list((place / ".git").glob("*.lock")) == []


def test_a_checkout_without_git_has_no_variants(toy, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)
    toy.sh("rm -rf .git")
    with pytest.raises(UserError, match=r"need a git clone of .*toy, but git clone failed:"):
        Variant.of(toy.root, {"last.width": 7}).prepare()
