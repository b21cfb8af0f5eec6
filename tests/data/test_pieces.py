"""Sources are read a piece at a time; what comes of them and what is refused is as if read whole."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_left_out import save_frames
from test_sources import load, photos, refused, save_images

from fewstep import data, rows
from fewstep.errors import UserError

NUMBERS = torch.tensor([61, 3, 4, 5, 40, 3])


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(rows, "PIECE_BYTES", 7 * 4 * 300)  # seven images
    return tmp_path


def opened(source, root, **options):
    return data.source_for(source, root, **options).load(root).data


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "float64", ">f4"])
def test_any_samples_of_an_npz_are_read_however_it_is_packed(root, save, order, dtype):
    images = photos(64).astype(dtype)
    save(root / "data/d.npz", x=np.asarray(images, order=order))
    found = opened("d.npz", root, value_range=[0, 255])
    expected = torch.from_numpy(images.astype("float32").transpose(0, 3, 1, 2).copy())
    if dtype != "uint8":
        expected = expected * (2 / 255) - 1
    assert (len(found), found.shape) == (64, (64, 3, 10, 10))
    torch.testing.assert_close(found[NUMBERS].float(), expected[NUMBERS])
    torch.testing.assert_close(found[NUMBERS].float(), expected[NUMBERS])  # backwards in the file


def test_an_image_that_lies_in_a_later_piece_is_refused_by_its_number(root):
    images = photos(64)
    images[[40, 50]] = 7
    np.savez(root / "data/d.npz", x=images)
    refused("2 of 64 samples are of one flat colour, the first is number 40", "d.npz", root)
    points = np.random.default_rng(0).normal(size=(9000, 3))
    points[8000, 1] = np.nan
    np.savez(root / "data/d.npz", x=points)
    refused("1 of 9000 samples hold NaN or infinity, the first is number 8000", "d.npz", root)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_are_standardised_by_the_very_numbers_of_the_whole(root, dtype):
    x = (np.random.default_rng(0).normal(size=(9000, 3)) * 100 + 1e4).astype(dtype)
    x[5] = np.inf
    np.savez(root / "data/d.npz", x=np.delete(x, 5, axis=0))
    finite = np.delete(x, 5, axis=0)
    units = load("d.npz", root, standardise=True).units
    assert units["offset"] == finite.mean(0, dtype=np.float64).tolist()
    assert units["scale"] == finite.std(0, dtype=np.float64).tolist()


def test_any_frames_of_a_folder_are_read(root):
    images = photos(64)
    save_images(root / "data/imgs", images[5:])
    save_frames(root / "data/imgs/+.tif", images[:5])  # sorts before digits
    found, whole = opened("imgs", root, frames="all"), load("imgs", root, frames="all").data
    assert torch.equal(whole[:5], torch.from_numpy(images[:5].transpose(0, 3, 1, 2).copy()))
    assert torch.equal(found[NUMBERS], whole[NUMBERS])
    Image.new("RGB", (10, 10), "red").save(root / "data/imgs/z.png")
    refused(
        r"1 of 65 samples are of one flat colour, the first is data/imgs/z\.png", "imgs", root, frames="all"
    )


@pytest.mark.parametrize(("images", "number"), [(photos(4), 4), (photos(5)[:, :-1], 3)])
def test_a_file_that_lost_frames_or_its_size_meanwhile_is_refused(root, images, number):
    save_images(root / "data/imgs", photos(5))
    save_frames(root / "data/imgs/+.tif", photos(5))
    found = opened("imgs", root, frames="all")
    save_frames(root / "data/imgs/+.tif", images)
    with pytest.raises(UserError, match=rf"data/imgs/\+\.tif, frame {number} was 10x10 pixels when"):
        found[torch.tensor([3, 4])]


def test_many_classes_are_numbered_in_the_order_of_their_names(root):
    for number in range(30):
        save_images(root / f"data/imgs/class {number:02}", photos(1 + number % 2))
    assert load("imgs", root).label.tolist() == [n for n in range(30) for _ in range(1 + n % 2)]


@pytest.mark.parametrize("shape", [(60, 0), (60, 3, 8, 0)])
def test_samples_of_a_source_of_the_users_own_hold_numbers(shape):
    with pytest.raises(UserError, match=r"mine has shape \(60, .*\): an axis of length 0"):
        data.check_samples(data.Samples(data=torch.zeros(shape)), "mine")
