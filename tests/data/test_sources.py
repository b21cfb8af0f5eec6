import re
import subprocess
import sys
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import torch
from missing import make_missing
from PIL import Image

from fewstep import data, registry
from fewstep.errors import UserError

TOYS = ("checkerboard", "eight_gaussians", "two_moons")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


def load(source, root, **options):
    """Return the samples of a source, all of them read."""
    samples = data.source_for(source, root, **options).load(root)
    return replace(samples, data=samples.data[torch.arange(len(samples.data))])


def floats(samples):
    """Return the data as float32."""
    scale, offset = samples.affine or (1, 0)
    return samples.data.float() * scale + offset


def refused(message, source, root, **options):
    with pytest.raises(UserError, match=message):
        load(source, root, **options)


def photos(n=3, size=10, channels=3):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def save_images(folder, images, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{number}.{suffix}")


# Named sources


def test_digits(root):
    from sklearn.datasets import load_digits

    samples = load("digits", root)
    theirs = load_digits()
    assert torch.equal((samples.data[:, 0] + 1) * 8, torch.from_numpy(theirs.images).float())
    assert torch.equal(samples.label, torch.from_numpy(theirs.target))
    assert samples.data.shape == (1797, 1, 8, 8)
    assert (samples.data.min(), samples.data.max()) == (-1, 1)
    assert torch.equal(samples.data, (samples.data * 8).round() / 8)
    assert samples.label.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert samples.class_names == tuple("0123456789")


def test_patches_tile_the_photos_and_leave_out_flat_ones(root):
    from sklearn.datasets import load_sample_images

    temple, flower = (torch.from_numpy(photo.copy()) for photo in load_sample_images().images)
    samples = load("patches", root)
    assert samples.data.shape == (2 * (427 // 16) * (640 // 16), 3, 16, 16)
    assert samples.affine == (2 / 255, -1.0)
    assert torch.equal(samples.data[41], temple[16:32, 16:32].permute(2, 0, 1))
    assert torch.equal(samples.data[1040 + 39], flower[:16, 624:640].permute(2, 0, 1))
    assert load("patches", root, side=8).data.shape == (8480 - 5, 3, 8, 8)


def test_patches_of_a_side_that_leaves_too_few_are_refused(root):
    refused("side must be at most 64, so that enough patches are left, got 65", "patches", root, side=65)
    refused("side must be a whole number from 8, got 7", "patches", root, side=7)


@pytest.mark.parametrize("name", data.named_sources())
def test_named_sources_pass_the_checks_and_repeat_themselves(name, root):
    samples = load(name, root)
    assert data.check_samples(samples, name).samples == len(samples.data)
    again = load(name, root)
    assert floats(samples).dtype == torch.float32
    assert torch.equal(samples.data, again.data)
    if samples.label is not None:
        assert samples.label.dtype == torch.int64
        assert samples.label.max() + 1 == len(samples.class_names)


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_as_many_points_as_asked_for(name, root):
    samples = load(name, root, count=123)
    assert samples.data.shape == (123, 2)
    assert not torch.equal(samples.data, load(name, root, count=123, seed=1).data)
    refused("count must be a whole number from 1, got 0", name, root, count=0)


def test_points_lie_on_their_piece(root):
    gaussians = load("eight_gaussians", root)
    angle = gaussians.label * torch.pi / 4
    off = gaussians.data - 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    torch.testing.assert_close(off.std(0), torch.full((2,), 0.1), rtol=0.05, atol=0)
    assert off.norm(dim=1).max() < 0.6

    board = load("checkerboard", root)
    squares = (board.data + 2).floor().long()
    assert squares.min() == 0
    assert squares.max() == 3
    assert (squares.sum(1) % 2 == 0).all()
    assert (
        len({(*square, label) for *square, label in torch.cat([squares, board.label[:, None]], 1).tolist()})
        == 8
    )

    moons = load("two_moons", root)
    centre = torch.tensor([-1.0, -0.5]) * torch.where(moons.label == 0, 1, -1)[:, None]
    assert ((moons.data - centre).norm(dim=1) - 2).abs().max() < 0.6
    assert moons.data.mean(0).abs().max() < 0.1


def test_every_source_imports_without_torch():
    code = "import sys, fewstep.data.digits, fewstep.data.npz, fewstep.data.folder, fewstep.data.two_moons"
    code += "; assert not {'torch', 'PIL', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_digits_are_read_without_scikit_learn():
    """It would take seconds to import."""
    code = "import sys; from fewstep.data.digits import Digits; Digits().load(None)"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'sklearn' not in sys.modules"], check=True)


def test_a_missing_library_is_named_with_its_extra(root, monkeypatch):
    make_missing(monkeypatch, "sklearn.datasets", "fewstep.data.patches")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refused(r"fewstep\[images\]", "digits", root)
    refused(r"fewstep\[images\]", "patches", root)
    save_images(root / "data" / "cats", photos())
    make_missing(monkeypatch, "PIL.Image", "fewstep.data._pictures")
    refused(r"fewstep\[images\]", "cats", root)


# Which source is meant


def test_each_way_to_name_a_source(root):
    np.savez(root / "data" / "cats.npz", x=photos())
    save_images(root / "data" / "dogs", photos())
    kind = {name: registry.find("fewstep.data", name) for name in registry.available("fewstep.data")}
    assert isinstance(data.source_for("two_moons", root), kind["two_moons"])
    assert isinstance(data.source_for("data/cats.npz", root), kind["npz"])
    assert data.source_for("cats.npz", root) == data.source_for("data/cats.npz", root)
    assert isinstance(data.source_for("dogs", root), kind["folder"])
    assert isinstance(data.source_for("s3://bucket/cats.npz", root), kind["npz"])


def test_an_unknown_source_is_answered_with_those_that_exist(root):
    np.savez(root / "data" / "cats.npz", x=photos())
    refused(r"unknown source 'digit'; did you mean 'digits'\?.*two_moons, cats.npz", "digit", root)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/dogs.npz", r"no file data/dogs\.npz; put it there"),
        ("dogs.npz", r"no file data/dogs\.npz; put it there"),
        ("data/dogs", "no folder data/dogs; put it there"),
        ("/etc/passwd", "outside data/"),
        ("data/../secret.npz", "outside data/"),
        ("s3://bucket/dogs", "only .npz"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(root, source, message):
    refused(message, source, root)


def test_a_file_of_another_kind_is_refused(root):
    (root / "data" / "cats.zip").write_bytes(b"")
    refused("neither an .npz file nor a folder", "cats.zip", root)


def test_an_unknown_option_is_answered_with_those_that_exist(root):
    refused(r"unknown option 'cuont'; did you mean 'count'\?", "two_moons", root, cuont=3)
    refused(r"unknown option 'count' \(there are: none\)", "digits", root, count=3)


@pytest.mark.parametrize(
    ("source", "option", "value", "allowed"),
    [
        *(("two_moons", "count", value, "a whole number from 1") for value in ("many", 2.5, True, None)),
        *(("two_moons", "seed", value, "a whole number from 0") for value in ("x", -1, 1.0)),
        *(("cats", "side", value, "a whole number from 8") for value in ("big", 16.0, [16, 16])),
        *(
            ("cats.npz", "value_range", value, "two numbers")
            for value in (3, "01", {0: 1, 1: 2}, ["0", "1"], [0, None], [0, float("inf")], [False, True])
        ),
    ],
)
def test_an_option_of_another_type_is_named_with_what_it_may_be(root, source, option, value, allowed):
    np.savez(root / "data" / "cats.npz", x=photos())
    save_images(root / "data" / "cats", photos())
    refused(f"{option} must be {allowed}.*got {re.escape(repr(value))}", source, root, **{option: value})


# .npz files


@pytest.mark.parametrize(
    ("layout", "channels"),
    [((0, 1, 2), 1), ((0, 1, 2, 3), 1), ((0, 1, 2, 3), 3), ((0, 3, 1, 2), 3), ((0, 3, 1, 2), 4)],
)
def test_every_layout_is_read_as_the_same_images(root, layout, channels):
    images = photos(channels=channels)
    x = images[..., 0] if len(layout) == 3 else images.transpose(layout)
    np.savez(root / "data" / "cats.npz", x=x)
    samples = load("cats.npz", root)
    assert samples.data.dtype == torch.uint8
    expected = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert torch.equal(samples.data, expected)
    torch.testing.assert_close(floats(samples), expected.float() / 127.5 - 1)
    assert samples.label is None


def test_floats_are_scaled_from_the_stated_range(root):
    x = np.random.default_rng(0).random((4, 8, 9))
    x[0, 0, :2] = 0, 5
    np.savez(root / "data" / "cats.npz", x=x)
    samples = load("cats.npz", root, value_range=[0, 5])
    assert samples.affine is None
    torch.testing.assert_close(samples.data[:, 0], torch.from_numpy(x).float() * 0.4 - 1)
    refused(r"floats from 0 to 5; say which range", "cats.npz", root)
    refused(r"from 0 to 5, outside value_range \[0, 1\]", "cats.npz", root, value_range=[0, 1])
    refused("value_range must be", "cats.npz", root, value_range=[1, 0])
    refused("value_range must be", "cats.npz", root, value_range=[1])


def test_points_and_labels_are_read(root):
    points = np.random.default_rng(0).random((5, 3))
    np.savez(root / "data" / "points.npz", x=points, y=np.array([0, 2, 1, 0, 2], dtype=np.uint8))
    samples = load("points.npz", root)
    torch.testing.assert_close(samples.data, torch.from_numpy(points).float())
    assert samples.label.tolist() == [0, 2, 1, 0, 2]
    assert samples.class_names == ("0", "1", "2")


def test_a_url_is_read_through_fsspec(root):
    with fsspec.open("memory://cats.npz", "wb") as file:
        np.savez(file, x=photos())
    assert load("memory://cats.npz", root).data.shape == (3, 3, 10, 10)
    refused("there is no file memory://dogs.npz", "memory://dogs.npz", root)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("an object was unpickled",))


WITH_NAN = np.random.default_rng(0).random((4, 2))
WITH_NAN[2:, 0] = np.nan, np.inf
FLAT = photos()
FLAT[1] = 7, 8, 9
WRONG_ARRAYS = [
    ({"x": np.array([Bomb(), 1], dtype=object)}, "x holds Python objects"),
    ({"x": photos(), "y": np.array(["a", None, 1], dtype=object)}, "y holds Python objects"),
    ({"z": photos()}, "holds z, but no array 'x'"),
    ({}, "no array 'x'"),
    ({"x": photos(n=0)}, "is empty"),
    ({"x": np.zeros((0, 2))}, "is empty"),
    ({"x": np.zeros((0, 8, 8))}, "is empty"),
    ({"x": np.zeros((60, 0))}, r"x has shape \(60, 0\): an axis of length 0 leaves samples without numbers"),
    ({"x": np.zeros((60, 8, 8, 0), np.uint8)}, r"x has shape \(60, 8, 8, 0\): an axis of length 0"),
    ({"x": np.float32(3)}, r"x has shape \(\), a single number; save an array of samples"),
    ({"x": photos(size=7)}, "sides of at least 8"),
    ({"x": photos(size=7)[..., 0]}, "7x7 pixels; they must be at least 8x8"),
    ({"x": np.zeros((2, 9, 9, 9), np.uint8)}, r"x has shape \(2, 9, 9, 9\)"),
    ({"x": np.zeros((2, 9, 9, 3, 1), np.uint8)}, r"x has shape \(2, 9, 9, 3, 1\)"),
    ({"x": np.zeros(5)}, r"samples of shape \(\)"),
    ({"x": photos().astype(np.int32)}, "x is int32"),
    ({"x": photos().astype("complex64")}, "x is complex64"),
    ({"x": np.zeros((4, 2), np.uint8)}, "x is uint8"),
    ({"x": WITH_NAN}, r"2 of 4 samples hold NaN or infinity, the first is number 2"),
    ({"x": FLAT}, r"1 of 3 samples are of one flat colour, the first is number 1"),
    ({"x": photos(), "y": np.zeros(2, int)}, r"labels have shape \(2,\); 3 samples need shape \(3,\)"),
    ({"x": photos(), "y": np.zeros((3, 1), int)}, "labels have shape"),
    ({"x": photos(), "y": np.array([0, -1, 1])}, "label -1 of sample 1 is negative"),
    ({"x": photos(), "y": np.array([0.0, 1.0, 0.5])}, "y is float64; labels must be whole"),
    ({"x": photos(), "y": np.array(["a", "b", "c"])}, "y is <U1"),
    ({"x": photos(), "y": np.array([0, 1, 2**40])}, "too large for 3 samples"),
]


@pytest.mark.parametrize(("arrays", "message"), WRONG_ARRAYS)
def test_wrong_arrays_are_refused_in_one_clear_message(root, arrays, message):
    np.savez(root / "data" / "cats.npz", **arrays)
    refused(rf"(?s)data/cats\.npz.*{message}", "cats.npz", root)


@pytest.mark.parametrize(
    ("shape", "option"), [((60, 0), "standardise"), ((60, 0, 8, 8), "latents"), ((60, 3, 0, 8), "latents")]
)
def test_samples_without_numbers_are_refused_whatever_is_asked(root, shape, option):
    np.savez(root / "data" / "cats.npz", x=np.zeros(shape))
    refused(f"x has shape {re.escape(str(shape))}: an axis", "cats.npz", root, **{option: True})


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\3\4 broken"])
def test_a_damaged_npz_is_named(root, content):
    (root / "data" / "cats.npz").write_bytes(content)
    refused(r"data/cats\.npz is no readable \.npz", "cats.npz", root)


def test_a_cut_npz_and_a_bare_array_are_named(root):
    path = root / "data" / "cats.npz"
    np.savez_compressed(path, x=photos())
    whole = bytearray(path.read_bytes())
    whole[100] ^= 255
    path.write_bytes(whole)
    refused(r"data/cats\.npz is no readable \.npz", "cats.npz", root)
    with path.open("wb") as file:
        np.save(file, photos())
    refused(r"data/cats\.npz is no readable \.npz", "cats.npz", root)


def test_options_of_images_are_refused_for_points_and_those_of_points_for_images(root):
    np.savez(root / "data" / "cats.npz", x=np.random.default_rng(0).normal(size=(9, 2)))
    refused("value_range is for images, and x is points", "cats.npz", root, value_range=[0, 255])
    np.savez(root / "data" / "cats.npz", x=photos())
    refused("standardise is for points, and x is images", "cats.npz", root, standardise=True)
    refused("standardise must be true or false, got 1", "cats.npz", root, standardise=1)


# Folders of images


def test_a_folder_of_classes(root):
    images = photos(4)
    save_images(root / "data" / "pets" / "dog", images[:3])
    save_images(root / "data" / "pets" / "cat", images[3:])
    (root / "data" / "pets" / "README.txt").write_text("pets")
    samples = load("data/pets", root)
    assert samples.class_names == ("cat", "dog")
    assert samples.label.tolist() == [0, 1, 1, 1]
    assert torch.equal(samples.data, torch.from_numpy(images[[3, 0, 1, 2]].transpose(0, 3, 1, 2).copy()))
    torch.testing.assert_close(floats(samples), samples.data.float() / 127.5 - 1)


def test_grey_images_have_one_channel_unless_one_has_colour(root):
    save_images(root / "data" / "cats", photos(3, channels=1))
    samples = load("cats", root)
    assert samples.data.shape == (3, 1, 10, 10)
    assert torch.equal(samples.data[:, 0], torch.from_numpy(photos(3, channels=1)[..., 0]))
    assert samples.label is None
    Image.fromarray(photos(1)[0]).save(root / "data" / "cats" / "colour.png")
    assert load("cats", root).data.shape == (4, 3, 10, 10)


def test_size_crops_and_resizes(root):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = photos(1, size=20)[0]
    save_images(root / "data" / "cats", [wide])
    Image.fromarray(photos(1, size=20)[0]).save(root / "data" / "cats" / "square.png")
    first, second = load("cats", root, side=10).data
    assert first.shape == (3, 10, 10)
    assert torch.equal(first, second)
    refused("side must be a whole number from 8, got 4", "cats", root, side=4)


def test_wrong_folders_are_refused(root):
    cats = root / "data" / "cats"
    cats.mkdir()
    refused("data/cats is empty: it holds no images", "cats", root)
    save_images(cats, photos())
    Image.fromarray(photos(1, size=12)[0]).save(cats / "z.png")
    refused(r"data/cats/z\.png has 12x12 pixels, but data/cats/0\.png has 10x10; .*set side", "cats", root)
    (cats / "z.png").write_bytes((cats / "0.png").read_bytes()[:100])
    refused(r"data/cats/z\.png can't be read as an image", "cats", root)
    (cats / "z.png").unlink()
    Image.new("RGB", (10, 10), "red").save(cats / "z.png")
    refused(r"1 of 4 samples are of one flat colour, the first is data/cats/z\.png", "cats", root)
    Image.fromarray(photos(1)[0, ..., 0].astype(np.uint16)).save(cats / "z.png")
    refused(r"data/cats/z\.png is of mode I;16", "cats", root)
    (cats / "z.png").unlink()
    save_images(cats / "black", photos())
    refused(r"data/cats/0\.png lies beside subfolders", "cats", root)


def test_images_that_are_too_small_are_refused(root):
    save_images(root / "data" / "cats", photos(size=7))
    refused("7x7 pixels; they must be at least 8x8", "cats", root)
