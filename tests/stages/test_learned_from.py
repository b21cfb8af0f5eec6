"""A model says that it learned from pairs if these passed their checks; reinterpolation asks for that."""

import json

import pytest
import torch
from jobs import job_in

from fewstep.checkpoint import CONFIG, load_config, load_model, model_digest, save_model
from fewstep.model import ModelConfig, build
from fewstep.shards import write_shards
from stages import reflow


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What reflow reads: a model of points, and pairs."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    network = {"name": "mlp", "width": 8, "depth": 1}
    save_model(tmp_path / "init", build(ModelConfig(architecture=network, shape=(2,)), seed=0))
    facts = {"guidance": 1.0, "model": model_digest(tmp_path / "init")}
    rows = dict.fromkeys(("noise", "data"), torch.randn(16, 2))
    for split in ("train", "held_out"):
        place = tmp_path / "pairs" / split
        write_shards(place, 16, 16, lambda a, b: {k: v[a:b] for k, v in rows.items()}, facts=facts)
    return {name: tmp_path / name for name in ("init", "pairs", "data")}


@pytest.mark.parametrize(("problems", "told"), [([], "pairs"), (["the pairs are reversed"], "coupled")])
def test_a_reflowed_model_learned_from_pairs_unless_their_check_failed(given, tmp_path, problems, told):
    job = job_in(
        tmp_path, "reflow", "round1", inputs=given, manifests={"pairs": {"facts": {"problems": problems}}}
    )
    config = reflow.Config(init="base", train={"steps": 2, "batch": 8}, straightness_noises=2)
    reflow.run(config, job)
    assert load_config(job.out).learned_from == told
    assert json.loads((job.out / CONFIG).read_text())["learned_from"] == told
    assert load_config(given["init"]).learned_from is None
    spec = reflow.training_spec(config, job, load_model(job.out))
    assert spec.student.config.learned_from == told
