"""Models in latents of an autoencoder of diffusers, whose images people and metrics see."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from jobs import Listener, job_in
from PIL import Image
from safetensors.torch import load_file
from tiny_networks import autoencoder, unet

from fewstep import codec, command_line
from fewstep.checkpoint import save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.metrics import denoiser, features
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.latent_bound import LatentBound
from fewstep.metrics.nets import load_nets
from fewstep.metrics.saved import as_saved, outside
from fewstep.model import ModelConfig, build
from fewstep.settings import MonitorSettings, TrainSettings
from fewstep.shards import Column, Shards, write_shards
from stages import nets, prepare, pretrain
from stages.evaluation.entries import Entry
from stages.evaluation.latent_bound import latent_bound
from stages.evaluation.yardstick import Protocol, Yardstick, measure_constants
from stages.settings import checks
from stages.settings.params import Params
from stages.training import loss_features
from stages.training.task import TrainTask

IMAGES, LATENTS = (3, 16, 16), (4, 8, 8)
PROTOCOL = Protocol(blocks=2, samples=50, batch=25, seed=0)
FEW = {"steps": 2, "public_features": False, "clusters": 2}


def images(count=120):
    generator = torch.Generator().manual_seed(0)
    tones = torch.rand(count, 3, 1, 1, generator=generator) * 200
    return (tones + 55 * torch.rand(count, *IMAGES, generator=generator)).byte()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout's folder with an autoencoder and images in data/."""
    place = tmp_path_factory.mktemp("checkout")
    autoencoder().save_pretrained(place / "data/vae")
    np.savez(place / "data/images.npz", x=images().numpy(), y=np.arange(120) % 2)
    return place


def prepared(folder, out, monkeypatch, **settings):
    monkeypatch.chdir(folder)
    config = {"source": "images.npz", "samples_per_shard": 50}
    config |= {"codec": {"folder": "data/vae"}} | settings
    said: list[str] = []
    job = job_in(out, "prepare", inputs={"codec": folder / "data/vae"}, progress=Listener(said))
    prepare.run(prepare.Config.model_validate(config), job)
    return job, said


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return prepared(folder, tmp_path_factory.mktemp("prepared"), patch)


def trained(data, out, **settings):
    """Return the folder of the nets."""
    job = job_in(out, "nets", inputs={"data": data})
    nets.run(nets.Config.model_validate({"metric": FEW, "monitor": {"steps": 2}} | settings), job)
    return job.out


@pytest.fixture(scope="module")
def seen_by(made, tmp_path_factory):
    return trained(made[0].out, tmp_path_factory.mktemp("nets"))


def test_latents_are_those_of_the_library():
    """z = (latent - shift) * scaling, as its pipelines have it."""
    library, ours = autoencoder(), codec.Codec(autoencoder().eval(), 1.5, 0.1)
    pixels = images(20).float() / 127.5 - 1
    with torch.no_grad():
        theirs = library.encode(pixels).latent_dist
        torch.testing.assert_close(ours.encode(pixels), (theirs.mean - 0.1) * 1.5, rtol=0, atol=2e-6)
        noise = torch.randn(20, *LATENTS)
        drawn = (theirs.mean + theirs.std * noise - 0.1) * 1.5
        torch.testing.assert_close(ours.encode(pixels, noise), drawn, rtol=0, atol=2e-6)
        shown = library.decode(drawn / 1.5 + 0.1).sample
    torch.testing.assert_close(ours.decode(drawn), shown, rtol=0, atol=2e-6)


def test_the_stretch_of_a_decoder_is_the_largest_singular_value_of_its_derivative(made):
    weights = torch.randn(12, 8, generator=torch.Generator().manual_seed(3)).double()

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(weights, requires_grad=False)

        def decode(self, z):
            return SimpleNamespace(sample=(z.flatten(1) @ self.weights.T).reshape(-1, 3, 2, 2))

    latents = torch.randn(5, 2, 2, 2).double()
    found = codec.Codec(Linear(), 0.5, 0.1).stretch(latents)  # scaling 0.5: an image moves twice as far
    assert found == pytest.approx(2 * float(torch.linalg.matrix_norm(weights, 2)), rel=0.02)
    assert found <= 2 * float(torch.linalg.matrix_norm(weights, 2)) * (1 + 1e-6)
    assert made[0].facts["codec"]["stretch"] > 0


def test_the_reports_bound_is_of_what_prepare_and_pretrain_measured(made, tmp_path):
    facts, config = (
        made[0].facts,
        pretrain.Config(method="flow_matching", model={"name": "unet"}, train=TrainSettings(steps=1)),
    )
    learnt = {"stage": "pretrain", "config": config.model_dump(mode="json"), "facts": {"held_out_loss": 0.4}}
    manifests = {"data": {"facts": facts}, "reference": learnt}

    def found(prepared=made[0].out, **changed):
        told = manifests | changed
        return latent_bound(job_in(tmp_path, "evaluate", inputs={"data": prepared}, manifests=told))

    terms, (c, h, w) = found(), LATENTS
    lost = facts["codec"]["rmse"] * (np.prod(images().shape[1:])) ** 0.5
    assert terms == LatentBound(pytest.approx(lost), facts["codec"]["stretch"], (0.4 * c * h * w) ** 0.5)
    assert found(prepared=tmp_path) is None  # the model makes what is measured
    assert found(data={"facts": facts | {"codec": facts["codec"] | {"rmse": None}}}) is None
    for other in ({"path": "vp"}, {"prediction": "noise"}, {"checkpoint": "data/theirs"}):
        assert found(reference=learnt | {"config": learnt["config"] | other}) is None
    assert found(reference={"stage": "adopt"}) is None


def test_prepare_writes_the_latents_of_its_images_and_the_codec(made, folder):
    job, said = made
    ours = codec.read(folder / "data/vae")
    chosen = prepare.split(120, 0.25, 0)[0]
    wanted = ours.encode(images()[chosen].float() / 127.5 - 1)
    train = Shards(job.out / "train")
    torch.testing.assert_close(train.load()["data"], wanted, rtol=0, atol=2e-6)
    assert job.facts["shape"] == list(LATENTS)
    assert train.facts["pixels"] is False
    again = codec.of_prepared(job.out)
    assert (again.scaling, again.shift) == (1.5, 0.1)
    torch.testing.assert_close(again.decode(wanted), ours.decode(wanted), rtol=0, atol=0)
    facts = job.facts["codec"]
    held_out = Column(Shards(job.out / "held_out"), "data")[torch.arange(30)]
    lost = ours.decode(held_out).clamp(-1, 1) - (images()[prepare.split(120, 0.25, 0)[1]].float() / 127.5 - 1)
    assert facts["rmse"] == pytest.approx(float(lost.square().mean().sqrt()), rel=1e-4)
    assert facts["std"] == pytest.approx(float(held_out.std()), rel=1e-4)
    assert any("decoded, held-out images are" in line for line in said)


def test_nets_and_pictures_see_images(made, seen_by):
    assert all(net.shape == IMAGES and net.pixels for net in load_nets(seen_by).values())
    monitor, _ = features.load(seen_by, name=denoiser.MONITOR)
    assert (monitor.shape, monitor.pixels) == (IMAGES, True)
    with Image.open(made[0].out / "samples.png") as picture:
        assert picture.height == 2 * 48 + 3 + 20  # the data and what the codec makes of it


def test_draws_of_latents_come_from_the_seed_and_not_from_how_they_are_cut(
    folder, tmp_path, monkeypatch, made
):
    drawn = {"codec": {"folder": "data/vae", "encode": "sample"}}
    one, _ = prepared(folder, tmp_path / "one", monkeypatch, **drawn)
    two, _ = prepared(folder, tmp_path / "two", monkeypatch, **drawn, samples_per_shard=17)
    first, second = (Shards(job.out / "train").load()["data"] for job in (one, two))
    torch.testing.assert_close(first, second, rtol=0, atol=2e-6)
    assert (first - Shards(made[0].out / "train").load()["data"]).abs().max() > 0.1


def test_nets_learn_from_decoded_images_of_as_many_samples_as_asked(made, seen_by, tmp_path):
    train, ours = Shards(made[0].out / "train"), codec.of_prepared(made[0].out)
    some = train.numbers_of_some(40, seed=0)
    images = as_saved(ours.decode(train.load()["data"][some]))
    wanted = denoiser.train_denoiser(images, pixels=True, steps=2, seed=0)
    found = {count: trained(made[0].out, tmp_path / f"{count}", decoded=count) for count in (40, 90)}
    digests = {count: features.load(place, name=denoiser.MONITOR)[0].digest for count, place in found.items()}
    assert digests[40] == wanted.digest != digests[90]
    assert digests[90] == features.load(seen_by, name=denoiser.MONITOR)[0].digest  # there are 90


def test_samples_are_measured_and_shown_as_images(made, seen_by):
    job, _ = made
    architecture = {"name": "unet", "width": 8, "multipliers": [1, 2]}
    student = build(ModelConfig(architecture=architecture, shape=LATENTS, grid=uniform(1)), seed=0).eval()
    constants = measure_constants(job.out, seen_by, PROTOCOL)
    entry = Entry("a", "own", student.config.grid, 1, "digest", 1.0)
    result = Yardstick(job.out, seen_by, PROTOCOL, constants).measure(entry, student, as_flow(student))
    ours, own = codec.of_prepared(job.out), load_nets(seen_by)
    flow, grid = as_flow(student), uniform(1)
    seen = torch.cat([ours.decode(torch.cat(list(PROTOCOL.sample(n, student, flow, grid)))) for n in (0, 1)])
    train = ours.decode(Shards(job.out / "train").load()["data"])
    for net, scores in zip(own.values(), result.scores, strict=True):
        wanted = frechet_distance(*(Moments.of(net.features(part)) for part in (train, seen)))
        assert scores.fd_clf == pytest.approx(wanted, rel=1e-3)
    assert result.more["outside"] == pytest.approx(outside(seen), rel=1e-3)
    assert result.samples.shape[1:] == IMAGES


def test_a_monitor_sees_images(made, seen_by, tmp_path):
    job, _ = made
    task = TrainTask(None, None, tmp_path, None, 0, tmp_path, {"data": job.out, "nets": seen_by})
    monitor = task.watched_by(MonitorSettings(samples=100))
    architecture = {"name": "unet", "width": 8, "multipliers": [1, 2]}
    student = build(ModelConfig(architecture=architecture, shape=LATENTS, grid=uniform(1)), seed=0)
    ours = codec.of_prepared(job.out)
    samples = monitor.sample(student, uniform(1))
    seen = (ours.decode(part) for part in (Shards(job.out / "train").load()["data"], samples))
    wanted = frechet_distance(*(Moments.of(monitor.net.features(part)) for part in seen))
    assert monitor.look(student, step=0).fd == pytest.approx(wanted, rel=1e-3)


def test_latents_of_elsewhere_are_taken_as_they_are(folder, tmp_path, monkeypatch):
    latents = torch.randn(120, *LATENTS, generator=torch.Generator().manual_seed(0))
    np.savez(folder / "data/latents.npz", x=latents.numpy())
    source = {"source": "latents.npz", "source_options": {"latents": True}}
    decoded, _ = prepared(folder, tmp_path / "decoded", monkeypatch, **source)
    plain, _ = prepared(folder, tmp_path / "plain", monkeypatch, **source, codec=None)
    chosen = prepare.split(120, 0.25, 0)[0]
    for job, shape in ((decoded, IMAGES), (plain, LATENTS)):
        assert torch.equal(Shards(job.out / "train").load()["data"], latents[chosen])
        own = load_nets(trained(job.out, job.out.parent / "nets")).values()
        assert {net.shape for net in own} == {shape}
        assert all(net.pixels == (shape == IMAGES) for net in own)
    assert decoded.facts["codec"]["rmse"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "two_moons"}, "prepare.codec encodes images, and the source has points; remove it"),
        ({"source": "digits"}, r"the codec takes images of 3 channels .* the data has \(1, 8, 8\)"),
        (
            {"source": "flat.npz", "source_options": {"latents": True}},
            r"codec has latents of 4 channels, the data has \(3, 8, 8\)",
        ),
        (
            {"source": "loud.npz", "source_options": {"latents": True}},
            "channel . has .* scaling_factor of their",
        ),
        (
            {"source": "points.npz", "source_options": {"latents": True}},
            r"x is float32 of shape \(120, 2\); latents are floats \(n, channels, height, width\)",
        ),
        (
            {"source": "images.npz", "source_options": {"latents": True}},
            "save .* points and latents as floats",
        ),
    ],
    ids=["points", "grey", "channels", "scale", "vectors", "bytes"],
)
def test_data_that_does_not_fit_is_refused(folder, tmp_path, monkeypatch, change, message):
    draw = np.random.default_rng(0).standard_normal
    np.savez(folder / "data/flat.npz", x=draw((120, 3, 8, 8)).astype(np.float32))
    np.savez(folder / "data/points.npz", x=draw((120, 2)).astype(np.float32))
    np.savez(folder / "data/loud.npz", x=(90 * draw((120, *LATENTS))).astype(np.float32))
    with pytest.raises(UserError, match=message):
        prepared(folder, tmp_path, monkeypatch, **change)


def no_config(folder):
    (folder / "config.json").unlink()


def another_class(folder):
    unet().save_pretrained(folder)


def pickled(folder):
    (folder / codec.WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def weights_of_another(folder):
    autoencoder(latent_channels=2).save_pretrained(folder / "other")
    (folder / "other" / codec.WEIGHTS).rename(folder / codec.WEIGHTS)


def no_scale(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": "large"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_config, r"has no config.json: name the folder of an AutoencoderKL"),
        (another_class, "holds UNet2DModel; a codec must be an AutoencoderKL"),
        (pickled, "no weights but diffusion_pytorch_model.bin, which may run code"),
        (weights_of_another, "options describe another network than the weights"),
        (no_scale, "scaling_factor must be a number other than 0, got 'large'"),
    ],
)
def test_a_folder_that_is_no_codec_is_refused(tmp_path, spoil, message):
    autoencoder().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        codec.read(tmp_path)


@pytest.mark.parametrize("shift", [None, 0.0])
def test_latents_may_have_no_shift(tmp_path, shift):
    autoencoder(shift_factor=shift).save_pretrained(tmp_path)
    assert codec.read(tmp_path).shift == 0


def test_a_model_of_latents_is_sampled_as_images(folder, tmp_path, capsys):
    architecture = {"name": "unet", "width": 8, "multipliers": [1, 2]}
    save_model(tmp_path / "model", build(ModelConfig(architecture=architecture, shape=LATENTS), seed=0))

    def ended(*more):
        with pytest.raises(SystemExit) as end:
            command_line.main(["sample", str(tmp_path / "model"), "--steps", "2", "--samples", "4", *more])
        return end.value.code

    vae, files = (
        str(folder / "data/vae"),
        {name: tmp_path / f"{name}.safetensors" for name in ("raw", "seen")},
    )
    assert not ended("--out", str(files["raw"]))
    assert not ended("--out", str(files["seen"]), "--codec", vae)
    raw, seen = (load_file(file)["samples"] for file in files.values())
    torch.testing.assert_close(codec.read(folder / "data/vae").decode(raw), seen, rtol=0, atol=1e-5)
    assert not ended("--out", str(tmp_path / "seen.png"), "--codec", vae)
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.size == (32, 32)
    autoencoder(latent_channels=2).save_pretrained(tmp_path / "other")
    assert "the codec has latents of 2 channels" in ended("--codec", str(tmp_path / "other"))


def test_a_pipeline_has_its_codec_in_vae(tmp_path):
    autoencoder().save_pretrained(tmp_path / "vae")
    assert codec.read(tmp_path).scaling == 1.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"folder": "models/vae"}, r"prepare\.codec\.folder 'models/vae' must be a folder under data/"),
        ("data/vae", r"prepare\.codec should be a mapping of settings, got 'data/vae'"),
    ],
)
def test_a_codec_that_is_no_folder_of_data_is_refused_before_any_work(setting, message):
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["prepare"]["codec"] = setting
    with pytest.raises(UserError, match=message):
        checks.check(Params(raw))


def test_a_loss_compares_latents_by_features_of_their_images(tmp_path):
    z = torch.randn(20, *LATENTS)
    write_shards(tmp_path / "train", 20, 20, lambda a, b: {"data": z[a:b]}, facts={"pixels": False})
    codec.Codec(autoencoder(), 1.0, 0.0).save(tmp_path / codec.PREPARED)
    through = codec.of_prepared(tmp_path)
    seen = denoiser.train_denoiser(through.decode(z), pixels=True, steps=2, seed=0)
    features.save(tmp_path, seen, {}, name=denoiser.MONITOR)
    net, z = loss_features.read("monitor", tmp_path, tmp_path), z[:3].requires_grad_()
    found = net(z)
    torch.testing.assert_close(found, features.Features(seen)(through.decode(z)), rtol=1e-4, atol=1e-4)
    (slope,) = torch.autograd.grad(found.sum(), z)
    assert slope.abs().max() > 0
    assert not any(weight.requires_grad for weight in net.parameters())
