"""Classes are those that have samples, and generated samples hold each as often as the data does."""

import json
import re

import numpy as np
import pytest
import torch
from jobs import job_in

from fewstep import data
from fewstep.checkpoint import load_config, save_model
from fewstep.conditions import Conditions
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN
from stages import pretrain
from stages.training import training


def saved(root, y):
    """Return the samples of an .npz of points with these labels."""
    (root / "data").mkdir(exist_ok=True)
    np.savez(root / "data/d.npz", x=np.random.default_rng(0).normal(size=(len(y), 3)), y=y)
    return data.without_empty_classes(data.source_for("d.npz", root).load(root))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (range(1, 11), r"1 of 11 classes have no samples \(0\); the 10 .* class 0 is '1', class 9 is '10'"),
        ((3, 7), r"6 of 8 classes have no samples \(0, 1, 2, 4, 5, ...\); the 2 .* class 1 is '7'"),
        ((0, 1, 5), r"3 of 6 classes have no samples \(2, 3, 4\); the 3 "),
    ],
)
def test_labels_with_gaps_are_numbered_anew_and_keep_their_names(tmp_path, values, says):
    y = np.resize(list(values), 40)
    samples = saved(tmp_path, y)
    assert samples.class_names == tuple(map(str, values))
    assert [samples.class_names[label] for label in samples.label] == [str(label) for label in y]
    (note,) = samples.notes
    assert re.match(says, note)


def test_labels_without_gaps_stay(tmp_path):
    samples = saved(tmp_path, np.arange(40) % 4)
    assert samples.label.tolist() == [i % 4 for i in range(40)]
    assert samples.notes == ()


def test_a_toy_of_too_few_points_for_its_pieces_has_the_classes_it_shows(tmp_path):
    samples = data.without_empty_classes(data.source_for("eight_gaussians", tmp_path, count=5).load(tmp_path))
    assert len(samples.class_names) == samples.label.max() + 1 == len(samples.label.unique()) < 8


def test_the_manifest_holds_the_shares_of_the_training_data(tmp_path):
    samples = saved(tmp_path, np.array([0] * 36 + [1] * 3 + [2]))
    known = data.facts_of(samples, torch.arange(39))
    assert known["class_shares"] == pytest.approx([36 / 39, 3 / 39, 0])
    assert known["notes"] == ["1 of 3 classes have held-out samples alone, and are never drawn: 2"]
    assert data.facts_of(samples, torch.arange(40))["notes"] == []


# Models


def model_of(**config):
    return build(ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(3,), **config), seed=0)


FACTS = {"shape": [3], "classes": 2, "class_names": ["cat", "dog"], "class_shares": [0.9, 0.1], "units": None}


def adopted(folder, facts=FACTS, **config):
    job = job_in(folder, "pretrain")
    training.publish_model(job, model_of(**config), facts, source=folder / "mine")
    return load_config(job.out)


def test_an_adopted_model_draws_labels_by_the_shares_of_the_data(tmp_path):
    config = adopted(tmp_path, classes=2)
    assert (config.class_shares, config.class_names) == ((0.9, 0.1), ("cat", "dog"))
    law = Conditions(config.class_shares)
    ((_, conditions),) = draws("x", 0, range(100), shape=(3,), law=GAUSSIAN, conditions=law, batch=100)
    assert abs(int(conditions["label"].sum()) - 10) <= 1


def test_an_adopted_model_keeps_its_own_shares_where_the_data_has_no_labels(tmp_path):
    unlabelled = FACTS | {"classes": 0, "class_names": [], "class_shares": []}
    assert adopted(tmp_path, unlabelled, classes=2, class_shares=(0.3, 0.7)).class_shares == (0.3, 0.7)
    assert adopted(tmp_path, FACTS).class_shares == ()


def test_an_adopted_model_of_other_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has 3 classes, the data 2 .* or without labels"):
        adopted(tmp_path, classes=3)


def test_a_model_directory_of_old_has_classes_of_equal_shares(tmp_path):
    save_model(tmp_path, model_of(classes=4))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["class_shares"], config["class_names"], config["units"]
    file.write_text(json.dumps(config))
    assert load_config(tmp_path).class_shares == (0.25,) * 4


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.0,), (1.5, -0.5), (0.2, 0.3, 0.5), (float("nan"), 1.0)])
def test_invalid_shares_are_refused(shares):
    with pytest.raises(UserError, match="class_shares must be 2 numbers from 0 that add up to 1"):
        ModelConfig(architecture={}, shape=(2,), classes=2, class_shares=shares)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_trained_model_has_the_classes_and_units_of_its_data(tmp_path, monkeypatch, conditional):
    monkeypatch.setattr(training, "train_model", lambda job, spec: made.append(spec.student))
    made, units = [], {"scale": [2.0] * 3, "offset": [0.0] * 3}
    job = job_in(
        tmp_path,
        "pretrain",
        inputs={"data": tmp_path},
        manifests={"data": {"facts": FACTS | {"units": units}}},
    )
    settings = {"method": "flow_matching", "model": {"name": "mlp", "width": 8}, "train": {"steps": 1}}
    pretrain.run(pretrain.Config(**settings, conditional=conditional), job)
    config = made[0].config
    assert (config.classes, config.class_shares) == ((2, (0.9, 0.1)) if conditional else (0, ()))
    assert config.class_names == (("cat", "dog") if conditional else ())
    assert config.units == {"scale": (2.0,) * 3, "offset": (0.0,) * 3}
