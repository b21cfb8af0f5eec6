"""What images show: texts of a folder's metadata or of an .npz, one for each sample."""

import json

import numpy as np
import pytest
from PIL import Image
from test_sources import load, photos, refused, save_images


@pytest.fixture
def imgs(tmp_path):
    save_images(tmp_path / "data/imgs", photos(3))
    return tmp_path / "data/imgs"


def named(imgs):
    return sorted(file.name for file in imgs.iterdir())


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_texts_of_a_folder_go_by_the_names_of_its_files(imgs, ending):
    rows = [{"file_name": name, "text": f"image {name}", "more": "x"} for name in reversed(named(imgs))]
    lines = [json.dumps(row) for row in rows]
    if ending == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    texts = tuple(f"image {name}" for name in named(imgs))
    (imgs / f"metadata{ending}").write_text("\n".join(lines))
    samples = load("imgs", imgs.parents[1], texts="text")
    assert samples.texts == texts
    assert samples.notes == ()
    plain = load("imgs", imgs.parents[1])
    assert plain.texts == ()
    assert plain.notes == (f"data/imgs: passed over 1 files that are no images: 1 {ending}",)


def test_each_frame_of_a_file_has_its_text(imgs):
    first, *more = [Image.fromarray(image) for image in photos(3)]
    first.save(imgs / "a.tif", save_all=True, append_images=more)
    rows = [f"{name},{name[0]}" for name in named(imgs)]
    (imgs / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    samples = load("imgs", imgs.parents[1], texts="text", frames="all")
    assert len(samples.texts) == len(samples.data) == 6
    assert samples.texts.count("a") == 3


def test_a_folder_without_its_texts_is_refused(imgs):
    root = imgs.parents[1]
    refused("data/imgs must hold one of metadata.csv, .*; it holds 0", "imgs", root, texts="text")
    (imgs / "metadata.csv").write_text("file_name,text\n")
    refused(r"metadata\.csv says nothing of 3 images, the first is ", "imgs", root, texts="text")
    (imgs / "metadata.csv").write_text(f"file_name,label\n{named(imgs)[0]},1\n")
    refused("line 2: unknown column 'text'", "imgs", root, texts="text")


def test_texts_of_an_npz_are_kept_without_conditions(tmp_path):
    (tmp_path / "data").mkdir()
    x = photos(3)
    np.savez(tmp_path / "data/a.npz", x=x, texts=np.array(["a", "b", "c"]))
    samples = load("a.npz", tmp_path)
    assert samples.texts == ("a", "b", "c")
    assert samples.conditions is None
    np.savez(tmp_path / "data/a.npz", x=x, texts=np.array(["a", "b"]))
    refused("a.npz: there are 2 texts; 3 samples need as many", "a.npz", tmp_path)
    place = np.zeros((3, 2), np.float32)
    np.savez(tmp_path / "data/a.npz", x=x, texts=np.array(["a", "b", "c"]), **{"conditions/place": place})
    assert load("a.npz", tmp_path).texts == ()
