"""The evaluation by networks of the user's files: exact distances, their names, and what is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jobs import job_in

from fewstep.checkpoint import save_model
from fewstep.conditions import Table
from fewstep.errors import UserError
from fewstep.metrics import backend
from fewstep.metrics.backend import Backend
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.model import Model, ModelConfig, build
from fewstep.shards import Shards
from stages import evaluate, nets, prepare
from stages.evaluation import by_features
from stages.evaluation.by_features import NamedNet, Sums
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())
FEW = {"steps": 2, "public_features": False, "clusters": 2}


class Tones(torch.nn.Module):
    """The mean and the spread of each channel."""

    def forward(self, x):
        return torch.cat([x.mean(dim=(2, 3)), x.flatten(2).std(dim=2)], dim=1)


class Reads(Backend):
    """Its features are the first pixel; an image fits a text if its red is the number that the text says."""

    def __init__(self):
        super().__init__("reads", inception=True, compares_texts=True)

    def features(self, images):
        return images[:, :, 0, 0].float()

    def similarity(self, images, texts):
        return (images[:, 0, 0, 0] == torch.tensor([int(text) for text in texts])).float()


def of_bytes(codes):
    """Images (n, 3, 8, 8) in [-1, 1] of one tone each, uint8 (n, 3)."""
    return (codes[:, :, None, None].expand(-1, 3, 8, 8).float() / 127.5) - 1


def test_distances_are_of_all_samples_with_an_error_over_blocks(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (3, 40, 3), generator=draw)
    of = Moments.of(np.random.default_rng(0).normal(100, 30, (50, 3)))
    sums = Sums({"mine": Reads()}, {"mine": of}, blocks=3)
    for block in range(3):
        for start, stop in ((0, 25), (25, 40)):
            some = codes[block, start:stop]
            texts = [str(int(red) + (number % 4 == 0)) for number, red in enumerate(some[:, 0], start=start)]
            sums.add(block, of_bytes(some), texts)
    found = sums.scores()["mine"]
    exact = frechet_distance(of, Moments.of(codes.flatten(0, 1).double().numpy()))
    without = [np.delete(codes.numpy(), block, axis=0).reshape(-1, 3) for block in range(3)]
    apart = [frechet_distance(of, Moments.of(part.astype(float))) for part in without]
    assert found["fd"] == pytest.approx(exact)
    assert found["fd_se"] == pytest.approx(np.sqrt(2 * np.var(apart)))
    assert found["similarity"] == pytest.approx(0.75)
    monkeypatch.setattr(backend, "LEAST_FID", 120)
    assert sums.scores()["mine"]["fid"] == found["fd"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with prepared images, a model of them, and a scripted network in data/."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("FEWSTEP_DEVICE", "cpu")
        Path("data/kept").mkdir(parents=True)
        Path("data/kept/manifest.json").write_text("{}")
        torch.jit.script(Tones()).save("data/tones.pt")
        x = torch.randint(0, 256, (160, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
        np.savez("data/images.npz", x=x.numpy())
        job = job_in(root, "prepare", out=root / "artifacts/prepare")
        job.out.mkdir(parents=True)
        prepare.run(prepare.Config(source="images.npz"), job)
        job = job_in(root, "nets", out=root / "artifacts/nets", inputs={"data": job.out})
        job.out.mkdir(parents=True)
        nets.run(nets.Config(metric=FEW, monitor={"steps": 1}), job)
        config = ModelConfig(
            architecture={"name": "mlp", "width": 8}, shape=(3, 8, 8), conditions={"at": (2,)}
        )
        table = Table(rows={"at": np.zeros((2, 2), np.float32)}, texts=("<a>", "b"))
        model, draw = build(config, seed=0), torch.Generator().manual_seed(1)
        with torch.no_grad():  # a fresh network's last layer is zero
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        save_model(root / "artifacts/models/base", Model(config, model.network, table))
    return root


def evaluated(root, monkeypatch, features):
    """Run the stage and return its metrics.json and page."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    config = evaluate.Config(
        samples=50, blocks=2, nfe=[1], reference_nfe=1, reference_solver="euler", features=features
    )
    inputs = {"data": "artifacts/prepare", "nets": "artifacts/nets"}
    inputs |= dict.fromkeys(["model base", "reference"], "artifacts/models/base")
    inputs |= evaluate.feature_inputs(config.features)
    inputs = {name: Path(path) for name, path in inputs.items()}
    facts = {
        "facts": {},
        "stage": "pretrain",
        "key": "base",
        "config": {},
        "fingerprint": "0" * 64,
        "inputs": {},
    }
    out = root / f"evaluate-{len(list(root.iterdir()))}"
    out.mkdir()
    job = job_in(root, "evaluate", out=out, inputs=inputs, manifests={"model base": facts})
    evaluate.run(config, job)
    return json.loads((job.out / "metrics.json").read_text()), (job.out / "report.html").read_text()


def tones(root, **more):
    digest = hashlib.sha256((root / "data/tones.pt").read_bytes()).hexdigest()
    return {"backend": {"name": "torchscript", "file": "data/tones.pt", "sha256": digest, "side": 8} | more}


def test_the_stage_measures_by_them_and_says_how(project, monkeypatch):
    real = Shards(project / "artifacts/prepare/train").load()["data"]
    codes = ((real + 1) * 127.5).round()
    of_data = Moments.of(Tones()(codes).double().numpy())
    np.savez(project / "data/real.npz", mu=of_data.mean, sigma=of_data.covariance)
    asked = {"mine": tones(project), "same": tones(project) | {"reference": "data/real.npz"}}
    told, page = evaluated(project, monkeypatch, asked)
    (row, *_) = told["rows"]
    mine = row["features"]["mine"]
    assert mine["fd"] == pytest.approx(row["features"]["same"]["fd"], rel=1e-4)
    assert mine["fd_se"] > 0
    assert told["features"]["mine"].endswith(
        "8 bits, bicubic to 8 (Pillow, float), values 0 to 255; against training data"
    )
    assert "; against real.npz sha256:" in told["features"]["same"]
    assert f"{mine['fd']:.4g}" in page
    assert "<th>fd mine</th>" in page
    assert "<li>&lt;a&gt;</li>" in page
    assert (project / "data/kept").exists()  # it is the user's, not the output of a stage
    plain, page = evaluated(project, monkeypatch, {})
    assert "features" not in plain
    assert "features" not in plain["rows"][0]
    assert "features of your own" not in page


def test_how_far_trajectories_turn_is_among_the_results(project, monkeypatch):
    told, page = evaluated(project, monkeypatch, {})
    (row, *_) = told["rows"]
    assert row["straightness"] > 0
    assert row["first_order"] > 0
    assert f"<td>{row['straightness']:.3f}</td>\n<td>{row['first_order']:.3f}</td>" in page


def test_statistics_of_another_network_and_another_file_are_refused_before_samples(project, monkeypatch):
    np.savez(project / "data/other.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(UserError, match=r"mine: the network makes 6 features, its reference is of 3"):
        evaluated(project, monkeypatch, {"mine": tones(project) | {"reference": "data/other.npz"}})
    with pytest.raises(UserError, match=r"tones\.pt has sha256 .* put there what is meant"):
        evaluated(project, monkeypatch, {"mine": tones(project, sha256="0" * 64)})
    with pytest.raises(UserError, match=r"samples here have shape \(2,\)"):
        by_features.protocols({"mine": NamedNet(None, {}, None)}, (2,), pixels=False)


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ({"backend": "inception"}, "evaluate.features.mine.backend: unknown backend 'inception'"),
        ({"backend": {"name": "torchscript", "file": "data/a.pt"}}, "evaluate.features.mine.backend.sha256"),
        (
            {"backend": {"name": "transformers", "folder": "/clip"}},
            "'/clip' must be a file or folder",
        ),
        (
            {"backend": {"name": "transformers", "folder": "data/clip"}, "reference": "real.npz"},
            r"evaluate\.features\.mine\.reference 'real\.npz' must be a file or folder under data/",
        ),
    ],
)
def test_wrong_settings_of_feature_backends_are_refused(features, told):
    with pytest.raises(UserError, match=told):
        checks.check(Params(RAW | {"evaluate": RAW["evaluate"] | {"features": {"mine": features}}}))
