"""Features that losses compare: of images, seen by nets that measure no result."""

import pytest
import torch
import yaml
from jobs import job_in, write_pairs

from fewstep.checkpoint import load_config, model_digest, save_model
from fewstep.errors import UserError
from fewstep.methods.reflow import Reflow
from fewstep.metrics import denoiser, features, public
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.shards import write_shards
from stages import reflow
from stages.settings.loss_features import wrong_loss_features
from stages.settings.params import Params
from stages.training.loss_features import read
from stages.training.task import TrainTask

COLOUR = (3, 16, 16)


def normal(count, shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def prepared(folder, shape, *, pixels=True):
    """Write data of that shape, and a monitor's net for images."""
    data = normal(40, shape)
    write_shards(folder / "train", 40, 40, lambda a, b: {"data": data[a:b]}, facts={"pixels": pixels})
    if pixels:
        net = denoiser.train_denoiser(data, pixels=True, steps=2, seed=0)
        features.save(folder, net, {}, name=denoiser.MONITOR)
    return folder


def reflowed(folder, given, **method):
    job = job_in(folder, "reflow", "round1", inputs=given)
    train = {"steps": 3, "batch": 16}
    options = {"init": "base", "straightness_noises": 2, "train": train}
    reflow.run(reflow.Config(method={"name": "reflow", **method}, **options), job)
    return job


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What reflow reads: a model of small grey images, its pairs, data, and nets."""
    folder, shape = tmp_path_factory.mktemp("given"), (1, 8, 8)
    network = {"name": "unet", "width": 8, "multipliers": [1]}
    save_model(folder / "init", build(ModelConfig(architecture=network, shape=shape), seed=0))
    noise = {"train": normal(32, shape, seed=32), "held_out": normal(16, shape, seed=16)}
    write_pairs(folder / "pairs", folder / "init", scale=0.5, **noise)
    data = prepared(folder / "data", shape)
    return {"init": folder / "init", "pairs": folder / "pairs", "data": data, "nets": data}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")


def test_a_model_learns_by_features_of_the_net_that_measures_no_result(given, tmp_path):
    plain = reflowed(tmp_path / "plain", given)
    seen = reflowed(tmp_path / "seen", given, feature_weight=1.0)
    assert model_digest(plain.out) != model_digest(seen.out)
    assert load_config(seen.out).shape == (1, 8, 8)


def test_features_of_points_are_refused_where_the_data_is_read(tmp_path):
    task = TrainTask(
        method=Reflow(feature_weight=1.0),
        settings=TrainSettings(steps=1),
        source=tmp_path,
        select=None,
        seed=0,
        state=tmp_path,
        inputs={"data": prepared(tmp_path / "data", (2,), pixels=False), "nets": tmp_path},
    )
    with pytest.raises(
        UserError, match=r"features of images, and samples of shape \(2,\) are none; set it to 0"
    ):
        task.load("features")


def test_colour_images_may_be_compared_by_public_features(tmp_path):
    place = prepared(tmp_path, COLOUR)
    net, x = read("efficientnet_lite0", place, place), normal(2, COLOUR).requires_grad_()
    found = net(x)
    assert found.shape == (2, public.POOLED)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert slope.abs().max() > 0
    torch.testing.assert_close(net(x), found)  # batch norms are those of its training
    assert not any(weight.requires_grad for weight in net.parameters())


def test_public_features_that_measure_results_or_do_not_suit_are_refused(tmp_path, given):
    place = prepared(tmp_path, COLOUR)
    (tmp_path / f"{public.NAME}.json").write_text("{}")
    with pytest.raises(UserError, match=r"measures results here; set nets\.metric\.public_features to false"):
        read("efficientnet_lite0", place, place)
    with pytest.raises(UserError, match=r"colour images of 16 .* these have shape \(1, 8, 8\): take monitor"):
        read("efficientnet_lite0", given["data"], given["nets"])


@pytest.mark.parametrize("net", ["classes-32", "denoising-40", "inception"])
def test_no_loss_sees_a_net_that_measures(net):
    with pytest.raises(UserError, match="never see those that measure results; choose from: monitor, eff"):
        Reflow(feature_weight=1.0, feature_net=net)


def test_public_features_that_measure_are_refused_before_any_stage():
    raw = """
    prepare: {source: patches}
    nets: {}
    reflow:
      a:
        init: b
        method: {name: reflow, feature_weight: 1, feature_net: efficientnet_lite0}
        train: {steps: 1}
    """

    def told(raw):
        params = Params(yaml.safe_load(raw))
        return list(wrong_loss_features("reflow.a.method", params.config("reflow", "a").method, params))

    (problem,) = told(raw)
    assert problem.startswith(
        "reflow.a.method.feature_net efficientnet_lite0 measures results, which no loss"
    )
    assert told(raw.replace("nets: {}", "nets: {metric: {public_features: false}}")) == []
    assert told(raw.replace("feature_weight: 1", "feature_weight: 0")) == []
