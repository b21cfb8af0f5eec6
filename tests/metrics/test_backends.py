"""Networks of the user's files: what they see of an image, what distances are called, what is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from tiny_tokenizers import clip_tokenizer
from torch.nn import functional

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.metrics.backend import distance_name, must_be_images, read_statistics, saved_bytes
from fewstep.metrics.backends.torchscript import FID, Torchscript
from fewstep.metrics.backends.transformers import Transformers
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.scripted import resized

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import transformers


class Inner(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=3)


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Inner()

    def forward(self, x):
        return self.layers(x).sum()


def images(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """Return what makes the options for a scripted network, and where it lies."""
    file = tmp_path_factory.mktemp("net") / "net.pt"
    torch.jit.script(Outer()).save(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    def made(**changed):
        return Torchscript(**{"file": "data/net.pt", "sha256": digest, "part": "layers", "side": 8} | changed)

    return made, {"file": file}


def test_a_scripted_network_sees_saved_images_in_its_side_and_range(scripted):
    made, places = scripted
    seen = images(3, 3, 12, 20)
    small = resized(seen, 8)
    for value_range in ((0.0, 255.0), (-1.0, 127 / 128)):
        backend = made(value_range=value_range).load(places, "cpu")
        low, high = value_range
        expected = (small / 255 * (high - low) + low).mean(dim=3).flatten(1)
        torch.testing.assert_close(backend.features(seen), expected)
    assert backend.protocol == (
        f"torchscript sha256:{made().sha256[:8]}, layers, 8 bits, bicubic to 8 (Pillow, float), "
        "values -1 to 0.992188"
    )


@pytest.mark.parametrize("shape", [(40, 32), (6, 8)])
def test_images_are_resized_by_an_antialiased_cubic_in_float(shape):
    seen = images(2, 3, *shape)
    smooth = {"mode": "bicubic", "antialias": True}
    expected = functional.interpolate(seen.float(), size=(16, 16), **smooth).clamp(0, 255)
    torch.testing.assert_close(resized(seen, 16), expected, atol=2e-3, rtol=0)
    assert torch.equal(resized(images(2, 3, 16, 16), 16), images(2, 3, 16, 16).float())


def test_images_are_measured_in_the_bytes_that_are_saved():
    grey = torch.tensor([-1.2, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 6)
    assert saved_bytes(grey).tolist() == [[[[0, 0, 128, 191, 255, 255]]] * 3]
    for shape, pixels in (((2,), False), ((4, 8, 8), False), ((2, 8, 8), True)):
        with pytest.raises(UserError, match=r"measures images of 1 or 3 channels; samples here have shape"):
            must_be_images(shape, pixels=pixels)


def test_only_inception_features_of_many_samples_make_a_fid():
    assert distance_name(True, 10_000) == "fid"
    assert distance_name(True, 9_999) == distance_name(False, 50_000) == "fd"


def test_inception_is_known_by_its_digest_and_the_way_it_is_called(scripted):
    known = {"file": "data/inception-2015-12-05.pt", **FID}
    assert Torchscript(**known | {"sha256": FID["sha256"].upper()}).inception
    for changed in ({"side": 256}, {"part": None}, {"value_range": (-1, 1)}, {"sha256": "0" * 64}):
        assert not Torchscript(**known | changed).inception
    made, places = scripted
    assert not made().load(places, "cpu").inception


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sha256": "ab"}, "must be 64 hexadecimal digits"),
        ({"side": 0}, "side must be from 1"),
        ({"value_range": (1, 0)}, r"got 8 and \[1, 0\]"),
    ],
)
def test_options_that_can_not_be_are_refused(scripted, changed, told):
    with pytest.raises(UserError, match=told):
        scripted[0](**changed)


def test_another_file_is_refused_and_one_that_makes_no_features(scripted, tmp_path):
    made, places = scripted
    with pytest.raises(UserError, match=rf"net.pt has sha256 {made().sha256}, not 0{{64}}; put there what"):
        made(sha256="0" * 64).load(places, "cpu")
    with pytest.raises(UserError, match=r"can't be read as a network of torch\.jit"):
        made(part="heads").load(places, "cpu")
    (tmp_path / "net.pt").write_bytes(b"no network")
    digest = hashlib.sha256(b"no network").hexdigest()
    with pytest.raises(UserError, match=r"can't be read as a network of torch\.jit"):
        made(sha256=digest).load({"file": tmp_path / "net.pt"}, "cpu")
    with pytest.raises(UserError, match=r"makes no features \(n, d\) of n images; name its part"):
        made(part=None).load(places, "cpu").features(images(2, 3, 8, 8))


def test_statistics_of_a_file_are_a_mean_and_a_covariance(tmp_path):
    file = tmp_path / "real.npz"
    np.savez(file, mu=np.full(3, 2.0), sigma=4 * np.eye(3))
    standard = Moments(2, np.zeros(3), np.eye(3))
    assert frechet_distance(read_statistics(file), standard) == pytest.approx(3 * (2**2 + (2 - 1) ** 2))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"mu": np.zeros(3)}, "holds no statistics"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"mu has shape \(3,\) and sigma \(2, 2\)"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "mu or sigma is not finite"),
        ({"mu": np.array([None, {}]), "sigma": np.eye(2)}, "holds no statistics"),
    ],
)
def test_a_file_without_statistics_is_refused(tmp_path, arrays, told):
    np.savez(tmp_path / "real.npz", **arrays)
    with pytest.raises(UserError, match=told):
        read_statistics(tmp_path / "real.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_file_of_statistics_is_refused(tmp_path, content):
    (tmp_path / "real.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"real\.npz holds no statistics"):
        read_statistics(tmp_path / "real.npz")


VISION = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = {"vocab_size": 80, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    sizes = {"image_size": 16, "patch_size": 8, "intermediate_size": 8}
    config = transformers.CLIPConfig(
        text_config=VISION | text | {"intermediate_size": 8, "pad_token_id": 1},
        vision_config=VISION | sizes,
        projection_dim=5,
    )
    network = transformers.CLIPModel(config).eval()
    network.save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPImageProcessorPil(**size).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return network, folder


def test_clip_compares_images_and_texts_as_its_library_does(clip):
    network, folder = clip
    backend = Transformers(folder="data/clip").load({"folder": folder}, "cpu")
    seen, texts = images(3, 3, 20, 16), ["a cat", "two dogs", "a very long text with many letters"]
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    arrays = [image.permute(1, 2, 0).numpy() for image in seen]
    pixels = processor(images=arrays, return_tensors="pt").pixel_values
    padded = {"padding": "max_length", "max_length": 12, "truncation": True, "return_tensors": "pt"}
    with torch.no_grad():
        made = network(pixel_values=pixels, **clip_tokenizer()(texts, **padded))
    cosine = (made.image_embeds * made.text_embeds).sum(dim=1)
    torch.testing.assert_close(backend.similarity(seen, texts), cosine)
    directions = functional.normalize(backend.features(seen))
    torch.testing.assert_close(directions, functional.normalize(made.image_embeds))
    assert backend.protocol.startswith("CLIPModel sha256:")
    assert backend.protocol.endswith(", 8 bits, CLIPImageProcessorPil")


def test_dinov2_is_taken_by_its_class_token(tmp_path):
    network = transformers.Dinov2Model(
        transformers.Dinov2Config(**VISION, image_size=28, patch_size=14)
    ).eval()
    network.save_pretrained(tmp_path)
    transformers.BitImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(tmp_path)
    backend = Transformers(folder="data/dino").load({"folder": tmp_path}, "cpu")
    assert not backend.compares_texts
    seen = images(2, 3, 28, 28)
    processor = transformers.BitImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor(images=[image.permute(1, 2, 0).numpy() for image in seen], return_tensors="pt")
    with torch.no_grad():
        expected = network(pixels.pixel_values).last_hidden_state[:, 0]
    torch.testing.assert_close(backend.features(seen), expected)


def test_a_folder_of_another_model_or_without_weights_is_refused(clip, tmp_path):
    def load():
        return Transformers(folder="data/x").load({"folder": tmp_path}, "cpu")

    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="holds a model of type 'bert'; features are taken of these: clip"):
        load()
    (tmp_path / "config.json").write_text((clip[1] / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"no weights but pytorch_model\.bin, which may run code"):
        load()
    (tmp_path / "model.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(UserError, match="can't be read as a CLIPModel"):
        load()


def test_code_in_a_folder_is_neither_run_nor_asked_about(clip, tmp_path, monkeypatch):
    shutil.copytree(clip[1], tmp_path, dirs_exist_ok=True)
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\n\n\nclass Own:\n    pass\n")
    told = {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    with pytest.raises(UserError, match="can't be read as a CLIPModel"):
        Transformers(folder="data/x").load({"folder": tmp_path}, "cpu")
    assert not ran.exists()
