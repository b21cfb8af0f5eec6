"""What lies in a folder of images, or beside the arrays of an .npz: used, refused, or named with a count."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from test_sources import load, photos, refused, save_images


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def imgs(root):
    (root / "data/imgs").mkdir()
    return root / "data/imgs"


def save_frames(path, images, **options):
    first, *more = [Image.fromarray(image.squeeze()) for image in images]
    first.save(path, save_all=True, append_images=more, **options)


# Frames and pages


@pytest.mark.parametrize(
    ("suffix", "options"), [("tif", {}), ("gif", {}), ("webp", {"lossless": True}), ("png", {})]
)
def test_files_of_several_frames_are_refused_until_one_says_which(root, imgs, suffix, options):
    for number in range(2):
        save_frames(imgs / f"{number}.{suffix}", photos(4), **options)
    refused(
        rf"0\.{suffix} holds 4 frames; set prepare.source_options.frames to all, .* or to first", "imgs", root
    )
    every, first = load("imgs", root, frames="all"), load("imgs", root, frames="first")
    assert (len(every.data), every.notes) == (8, ())
    assert torch.equal(first.data, every.data[::4])
    assert first.notes == ("data/imgs: passed over 6 frames that are not the first of their file",)


def test_frames_belong_to_the_class_of_their_file(root, imgs):
    (imgs / "cat").mkdir()
    save_frames(imgs / "cat/0.tif", photos(3))
    save_images(imgs / "dog", photos(2))
    samples = load("imgs", root, frames="all")
    assert samples.label.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(samples.data[:3], torch.from_numpy(photos(3)).permute(0, 3, 1, 2))


def test_a_frame_that_cannot_be_used_is_named(root, imgs):
    images = photos(3)
    images[2] = 7
    save_frames(imgs / "0.tif", images)
    refused(r"one flat colour, the first is data/imgs/0\.tif, frame 2", "imgs", root, frames="all")


@pytest.mark.parametrize("frames", [1, 3])
def test_grey_gifs_and_grey_palettes_stay_grey(root, imgs, frames):
    save_frames(imgs / "0.gif", photos(frames, channels=1))
    Image.fromarray(photos(channels=1)[0, ..., 0]).convert("P").save(imgs / "1.png")
    samples = load("imgs", root, frames="all")
    assert samples.data.shape == (frames + 1, 1, 10, 10)
    assert torch.equal(samples.data[0, 0], torch.from_numpy(photos(frames, channels=1)[0, ..., 0]))
    assert load("imgs", root, frames="all", side=8).data.shape[1] == 1
    save_frames(imgs / "2.gif", photos(1))
    assert load("imgs", root, frames="all").data.shape[1] == 3


# Endings


def test_every_format_that_pillow_opens_is_read(root, imgs):
    endings = {"jfif": "JPEG", "avif": "AVIF", "ppm": "PPM", "TIFF": "TIFF", "jp2": "JPEG2000", "ico": "ICO"}
    for ending, kind in endings.items():
        Image.fromarray(photos(1, size=16)[0]).save(imgs / f"x.{ending}", kind)
    samples = load("imgs", root)
    assert len(samples.data) == len(endings)
    assert samples.notes == ()


def test_files_that_are_no_images_are_counted_by_extension(root, imgs):
    save_images(imgs, photos())
    for number in range(3):
        (imgs / f"{number}.heic").write_bytes(b"x")
        (imgs / f"{number}.TXT").write_text("a cat")
    (imgs / "labels.csv").write_text("0,cat")
    (imgs / "LICENSE").write_text("MIT")
    os.mkfifo(imgs / "pipe")
    (imgs / ".hidden").write_text("x")
    samples = load("imgs", root)
    counted = "3 .heic, 3 .txt, 1 .csv, 1 LICENSE, 1 pipe"
    assert samples.notes == (f"data/imgs: passed over 9 files that are no images: {counted}",)


def test_a_folder_of_other_files_says_which(root, imgs):
    for number in range(12):
        (imgs / f"{number}.npy").write_bytes(b"x")
    (imgs / "0.eps").write_bytes(b"%!PS")
    says = r"data/imgs holds no images \(png, jpg, .*\); passed over 13 files .*: 12 \.npy, 1 \.eps"
    refused(says, "imgs", root)


def test_a_damaged_image_is_refused_whatever_its_extension(root, imgs):
    save_images(imgs, photos())
    for ending in ("jfif", "ppm", "avif"):
        (imgs / f"x.{ending}").write_bytes(b"")
        refused(rf"data/imgs/x\.{ending} can't be read as an image", "imgs", root)
        (imgs / f"x.{ending}").unlink()


def test_subfolders_without_images_and_deeper_ones_are_named(root, imgs):
    save_images(imgs / "cat/monday", photos())
    save_images(imgs / "dog", photos())
    (imgs / "bird").mkdir()
    samples = load("imgs", root)
    assert samples.class_names == ("cat", "dog")
    assert samples.notes == (
        "data/imgs: no images lie in bird",
        "data/imgs: only its own subfolders are classes; cat/monday and such belong to theirs",
    )


def test_arrays_that_are_not_read_from_an_npz_are_named(root):
    np.savez(root / "data/d.npz", x=photos(), y=np.zeros(3, int), x_test=photos(), labels=np.zeros(3))
    assert load("d.npz", root).notes == ("data/d.npz: passed over 2 arrays: x_test, labels",)


# Splits, links, names


@pytest.mark.parametrize(
    "splits", [("train", "val"), ("Train", "TEST"), ("training",), ("train", "valid", "test")]
)
def test_splits_are_no_classes(root, imgs, splits):
    for split in splits:
        save_images(imgs / split / "cat", photos())
    refused(rf"subfolders of data/imgs are splits .* source: data/imgs/{min(splits)}, or move", "imgs", root)
    assert load(f"imgs/{splits[0]}", root).class_names == ("cat",)
    save_images(imgs / "bus", photos())
    assert set(load("imgs", root).class_names) == {"bus", *splits}  # trains beside buses


@pytest.mark.parametrize("inside", [".", "cat"])
def test_links_to_nothing_are_refused_with_their_number(root, imgs, inside):
    save_images(imgs / inside, photos())
    for name in ("a.png", "b.png", "c"):
        (imgs / inside / name).symlink_to(root / "gone" / name)
    first = (imgs / inside / "a.png").relative_to(root)
    refused(
        f"3 files in data/imgs are links to nothing, the first is {first}; put the files there", "imgs", root
    )


@pytest.mark.parametrize("name", [b"caf\xe9/0.png", b"caf\xe9.png", b"caf\xe9.txt"])
def test_names_that_are_not_utf8_are_refused(root, imgs, name):
    save_images(imgs / "tea", photos())
    path = os.fsencode(imgs) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(photos()[0]).save(file, "PNG")
    refused(r"data/imgs/caf\\xe9(\.png|\.txt)? has a name that is not UTF-8; rename it", "imgs", root)
