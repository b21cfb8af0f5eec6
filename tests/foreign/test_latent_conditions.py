"""Conditions that are images beside latents: maps, and images with a hole and its mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jobs import job_in
from test_codec import IMAGES, LATENTS, images, prepared
from tiny_networks import autoencoder

from fewstep import codec, draws
from fewstep.checkpoint import load_model
from fewstep.conditions import Table
from fewstep.data import split
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.shards import Shards
from fewstep.solvers import integrate
from stages import pretrain
from stages.settings import checks
from stages.settings.params import Params

HOW = {"masked": "encode", "mask": "shrink"}


def masks():
    """Return which pixels are missing, (120, 1, 16, 16), 1 or 0: other columns of each image."""
    columns = torch.arange(16) < torch.arange(120)[:, None] % 16
    return columns[:, None, None, :].expand(-1, 1, 16, -1).float()


@pytest.fixture(scope="module")
def holes(tmp_path_factory):
    """A checkout's folder with an autoencoder and images, of which a part is missing."""
    place = tmp_path_factory.mktemp("checkout")
    autoencoder().save_pretrained(place / "data/vae")
    pixels = images().float() / 127.5 - 1
    arrays = {
        "conditions/masked": (pixels * (1 - masks())).half().numpy(),
        "conditions/mask": masks().numpy(),
        "null/masked": np.full(IMAGES, 0.5, np.float32),
        "null/mask": np.ones((1, 16, 16), np.float32),
        "conditions/place": np.zeros((120, 2), np.float32),
    }
    np.savez(place / "data/holes.npz", x=images().numpy(), **arrays)
    latents = torch.randn(120, *LATENTS, generator=torch.Generator().manual_seed(0))
    np.savez(place / "data/latents.npz", x=latents.numpy(), **arrays)
    np.savez(
        place / "data/wrong.npz",
        x=images().numpy(),
        **{"conditions/small": np.zeros((120, 3, 8, 8), np.float32)},
        **{"conditions/loud": 255 * arrays["conditions/masked"]},
    )
    return place


def prepared_holes(holes, out, patch, conditions=HOW, source="holes.npz", **more):
    settings = {"codec": {"folder": "data/vae", "conditions": conditions}, "source": source}
    return prepared(holes, out, patch, **settings, **more)[0]


def wanted(holes, numbers):
    """Return the latents of the images with a hole, and how much of each latent's square is missing."""
    ours = codec.read(holes / "data/vae")
    masked = ((images().float() / 127.5 - 1) * (1 - masks())).half()[numbers]
    return ours.encode(masked.float()), masks()[numbers].reshape(-1, 1, 8, 2, 8, 2).mean(dim=(3, 5))


@pytest.fixture(scope="module")
def made(holes, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return prepared_holes(holes, tmp_path_factory.mktemp("prepared"), patch)


def test_an_image_with_a_hole_is_encoded_and_its_mask_shrunk(made, holes):
    shards = Shards(made.out / "train")
    encoded, shrunk = wanted(holes, split(120, 0.25, 0)[0])
    stored = shards.load()
    torch.testing.assert_close(stored["masked"], encoded, rtol=2e-3, atol=2e-3)  # kept in float16
    torch.testing.assert_close(stored["mask"], shrunk, rtol=0, atol=1e-7)
    assert set(shrunk.unique().tolist()) == {0.0, 0.5, 1.0}


def test_what_stands_for_no_condition_is_changed_alike(made, holes):
    table = Table.load(made.out / "conditions.safetensors")
    assert table.shapes == {"masked": LATENTS, "mask": (1, 8, 8), "place": (2,)}
    assert table.rows["masked"].dtype == np.float16
    grey = codec.read(holes / "data/vae").encode(torch.full((1, *IMAGES), 0.5))[0]
    torch.testing.assert_close(torch.from_numpy(table.null["masked"]), grey, rtol=1e-5, atol=1e-5)
    assert (table.null["mask"] == 1).all()


def pretrained(prepared, out, **settings):
    """Return the folder of a model that learns from what `prepare` wrote."""
    data = {"inputs": {"data": prepared.out}, "manifests": {"data": {"facts": prepared.facts}}}
    job = job_in(out, "pretrain", "base", **data)
    network = {"name": "unet", "width": 8, "multipliers": [1, 2]}
    settings |= {"model": network, "train": {"steps": 3, "batch": 8}}
    pretrain.run(pretrain.Config.model_validate(settings), job)
    return job.out


def test_a_model_fills_holes_in_latents(made, tmp_path):
    method = {"name": "flow_matching", "label_dropout": 0.1}
    model = load_model(pretrained(made, tmp_path, conditional=["masked", "mask"], method=method))
    assert model.config.conditions == {"masked": LATENTS, "mask": (1, 8, 8)}
    ((noise, given),) = draws.draws_of(model, "test", 0, range(4), batch=4)
    with torch.no_grad():
        filled = integrate(as_flow(model, guidance=2.0), noise, uniform(2), **given)
    assert filled.x.shape == (4, *LATENTS)
    assert filled.nfe == 4


def test_a_network_refuses_conditions_that_were_left_in_their_size(holes, tmp_path, monkeypatch):
    left = prepared_holes(holes, tmp_path / "prepared", monkeypatch, conditions={"masked": "encode"})
    with pytest.raises(UserError, match=r"condition mask is an image of 16x16, the samples of 8x8"):
        pretrained(left, tmp_path / "model", conditional=["mask"], method="flow_matching")


def test_images_beside_latents_of_elsewhere_are_encoded(holes, tmp_path, monkeypatch, made):
    latents = {"source": "latents.npz", "source_options": {"latents": True}}
    elsewhere = prepared_holes(holes, tmp_path, monkeypatch, **latents)
    here, there = (Shards(job.out / "train").load()["masked"] for job in (elsewhere, made))
    assert torch.equal(here, there)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conditions": {"maskd": "encode"}},
            r"conditions\.maskd: the data has no such .* are: masked, mask",
        ),
        (
            {"conditions": {"mask": "encode"}},
            r"encode takes images of shape \(3, 16, 16\).* has \(1, 16, 16\)",
        ),
        ({"conditions": {"place": "shrink"}}, r"shrink takes images of shape \(2, 16, 16\).* has \(2,\)"),
        ({"source": "wrong.npz", "conditions": {"small": "encode"}}, r"has \(3, 8, 8\); prepare it in that"),
        ({"source": "wrong.npz", "conditions": {"loud": "encode"}}, r"images in \[-1, 1\], and .* from -2"),
        ({"source": "patches"}, r"conditions\.masked: the data has no such condition; there are: none"),
    ],
)
def test_conditions_that_can_not_be_fitted_are_refused(holes, tmp_path, monkeypatch, change, message):
    with pytest.raises(UserError, match=message):
        prepared_holes(holes, tmp_path, monkeypatch, **change)


@pytest.mark.parametrize("other", [{"text_encoders": {"folder": "data/sd"}}, {"source": None}])
def test_conditions_of_an_npz_are_refused_beside_what_makes_them_or_has_none(other):
    raw = yaml.safe_load(Path("params.yaml").read_text())
    teacher = {"folder": "data/theirs", "prediction": "noise", "path": "table", "samples": 100}
    raw["prepare"] |= {"codec": {"folder": "data/vae", "conditions": HOW}} | other
    raw["prepare"] |= {"teacher": teacher} if "source" in other else {}
    beside = "teacher" if "source" in other else "text_encoders"
    with pytest.raises(UserError, match=rf"codec\.conditions are those of an \.npz file, .*{beside}"):
        checks.check(Params(raw))
