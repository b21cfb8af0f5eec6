"""What of a folder under data/ is read: no linked folders, and nothing hidden."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_sources import load, photos, refused, save_images


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


def test_linked_folders_are_refused_by_name(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save_images(elsewhere / "cats", photos())
    np.savez(elsewhere / "cats.npz", x=photos())
    (root / "data" / "linked").symlink_to(elsewhere)
    (root / "data" / "cats").symlink_to(elsewhere / "cats")
    says = "is a link to a folder, through which changes go unseen; copy the folder there"
    refused(f"data/cats {says}", "cats", root)
    refused(f"data/linked {says}", "linked/cats", root)
    refused(f"data/linked {says}", "linked/cats.npz", root)
    save_images(root / "data" / "pets" / "dog", photos())
    (root / "data" / "pets" / "cat").symlink_to(elsewhere / "cats")
    refused(f"data/pets/cat {says}", "pets", root)
    refused("outside data/, where changes go unseen; copy it there", str(elsewhere), root)


def test_linked_files_are_read_for_dvc_makes_such_links(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save_images(elsewhere, photos())
    np.savez(elsewhere / "cats.npz", x=photos())
    (root / "data" / "cats.npz").symlink_to(elsewhere / "cats.npz")
    (root / "data" / "cats").mkdir()
    for file in elsewhere.glob("*.png"):
        (root / "data" / "cats" / file.name).symlink_to(file)
    assert torch.equal(load("cats.npz", root).data, load("cats", root).data)


def test_hidden_files_of_a_folder_are_ignored(root):
    pets = root / "data" / "pets"
    for name in ("cat", "dog", ".ck", "dog/.ck"):
        save_images(pets / name, photos())
    Image.fromarray(photos()[0]).save(pets / "cat" / "._0.png")
    samples = load("pets", root)
    assert samples.class_names == ("cat", "dog")
    assert len(samples.data) == 6
    (root / "data" / ".hidden").mkdir()
    (pets / "dog").rename(root / "data" / ".hidden" / "dog")
    assert load(".hidden", root).class_names == ("dog",)  # it was asked for by name
