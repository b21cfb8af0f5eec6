import pytest
import yaml
from workspace import CHECKOUT

from fewstep.errors import UserError
from flows.workspaces import variant
from stages.settings.params import Params


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"distil.boss-4.train.steps": 8}, "distil is nothing in params.yaml; did you mean 'distill'?"),
        ({"distill.bos-4.train.steps": 8}, "distill.bos-4 is nothing in params.yaml; did you mean 'boss-4'?"),
        (
            {"distill.boss-4.train.stpes": 8},
            "distill.boss-4.train.stpes is not a setting; did you mean 'steps'?",
        ),
        ({"distill.boss-4.train.steps": "many"}, "distill.boss-4.train.steps should be"),
        ({"pretrain.method.x": 1}, "pretrain.method is 'flow_matching', which has no settings of its own"),
        ({"sede": 1}, "sede is nothing in params.yaml; did you mean 'seed'?"),
        ({"seed": -1}, "seed should be a whole number"),
    ],
)
def test_a_wrong_override_is_told_before_anything_is_made(overrides, told):
    with pytest.raises(UserError) as caught:
        variant.settings(CHECKOUT, overrides)
    assert told in str(caught.value)


def test_an_override_may_set_what_had_its_default():
    raw = Params.read(CHECKOUT / "params.yaml").raw
    assert "clip" not in raw["pretrain"]["train"]
    params = variant.settings(CHECKOUT, {"pretrain.train.clip": 2.0, "distill.boss-4.train.steps": 800})
    assert params.raw["pretrain"]["train"]["clip"] == 2.0
    assert params.raw["distill"]["boss-4"]["train"] == raw["distill"]["boss-4"]["train"] | {"steps": 800}


def test_names_depend_on_settings_alone():
    assert variant.name_of({"a": 1, "b": 2}) == variant.name_of({"b": 2, "a": 1})
    assert variant.name_of({"a": 1}) != variant.name_of({"a": 2})


def test_a_variant_has_the_checkouts_files_as_they_are_and_shares_its_cache(toy_that_ran, monkeypatch):
    monkeypatch.setattr(Params, "check", lambda self: None)
    toy, root = toy_that_ran, toy_that_ran.root
    toy.edit(".gitignore", "/artifacts", "/artifacts\n/data/ignored")
    (root / "data" / "ignored").write_text("git does not know this")
    toy.edit("work.py", "at work", "hard at work")
    toy.sh("mkdir ../remote && dvc remote add -q -d store ../remote && dvc repro -q && dvc push -q")
    toy.began()
    state = "git status --porcelain; ls -l --time-style=full-iso artifacts/*; cat dvc.lock params.yaml"
    before = toy.sh(state)
    place = variant.prepare(root, {"last.width": 7})
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
    assert variant.prepare(root, {"last.width": 7}) == place
    assert "still at work" in (place / "work.py").read_text()
    assert not (place / "data" / "a").exists()
    assert (place / "artifacts" / "last").exists()
    assert (place / "dvc.lock").read_bytes() == made


def test_a_checkout_without_git_has_no_variants(toy, monkeypatch):
    monkeypatch.setattr(Params, "check", lambda self: None)
    toy.sh("rm -rf .git")
    with pytest.raises(UserError, match=r"need a git clone of .*toy, but git clone failed:"):
        variant.prepare(toy.root, {"last.width": 7})
