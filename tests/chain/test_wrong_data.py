"""Data, shards and model directories that can't be used: named, with the remedy, and nothing lost."""

from pathlib import Path

import numpy as np
import pytest


def images(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, size=(n, 16, 16, 3), dtype=np.uint8)


def with_nan() -> np.ndarray:
    points = np.zeros((40, 2), np.float32)
    points[7, 1] = np.nan
    return points


DATA = {
    "there is no file data/own.npz; put it there": None,
    "data/own.npz: x is empty: it holds no samples": {"x": images(0)},
    "holds y, but no array 'x'": {"y": images()},
    "x has shape (40, 3, 2, 16, 16); images are": {"x": np.zeros((40, 3, 2, 16, 16), np.uint8)},
    "x is int64; save images as uint8 or floats": {"x": images().astype(np.int64)},
    "1 of 40 samples hold NaN or infinity, the first is number 7": {"x": with_nan()},
}


@pytest.mark.parametrize("says", DATA)
def test_data_that_cannot_be_used(project, says):
    project.set(prepare={"source": "data/own.npz"})
    if DATA[says] is not None:
        np.savez(project / "data/own.npz", **DATA[says])
    (line,) = project.refused("python -m stages.prepare").splitlines()
    assert line.startswith("prepare: ")
    assert says in line


def test_an_empty_file(project, finished):
    project.set(prepare={"source": "data/own.npz"})
    (project / "data/own.npz").touch()
    said = project.refused("dvc repro")
    assert "prepare: data/own.npz is no readable .npz file" in said
    assert project.locked() == finished.locked()


def test_fewer_images_than_a_batch(project):
    project.set(pretrain={"base": {"train": {"batch": 5000}}})
    said = project.refused("dvc repro pretrain@base")
    assert (
        "pretrain@base: artifacts/prepare has 1347 samples to train on, fewer than one batch of 5000" in said
    )
    assert "lower pretrain.base.train.batch" in said


SHARD = "artifacts/couple/round1/train/shard-00003.tar"


def replace(file: Path, content: bytes) -> None:
    """Give a name to other content; other links to the old content keep it."""
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[: len(content) // 2], f"{SHARD} has "),
        (lambda content: content[:5000] + b"\x00\x01\x02" + content[5003:], f"{SHARD} was altered"),
    ],
    ids=["truncated", "altered"],
)
def test_a_damaged_shard_is_named_and_can_be_had_again(project, finished, damage, says):
    replace(project / SHARD, damage((project / SHARD).read_bytes()))
    said = project.refused("python -m stages.reflow round1")
    assert said.startswith("reflow@round1: ")
    assert says in said
    project.environment.pop("FEWSTEP_SCRATCH")
    assert project.repro("couple@round1").ran == []  # the cache has it
    assert project.files("artifacts/couple") == finished.files("artifacts/couple")


def test_a_shard_that_is_damaged_under_all_its_names_is_made_again_alone(project, finished):
    """The result, scratch and DVC's cache are one file."""
    shard = project / SHARD
    shard.chmod(0o644)
    with shard.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\x00\x01\x02")
    shard.chmod(0o444)
    said = project.refused("python -m stages.reflow round1")
    assert (
        f"{SHARD} was altered: its sha256 is not that in shards.json; make the set again: in a checkout"
        in said
    )
    project.environment.pop("FEWSTEP_SCRATCH")
    again = project.repro("couple@round1")
    assert again.ran == ["couple@round1"]
    assert again.said.count("shard-00003.tar is not as it was written") == 1
    assert "couple@round1: resuming from sample 512/576" in again.said
    assert project.files("artifacts/couple") == finished.files("artifacts/couple")
    assert project.locked() == finished.locked()


def test_a_model_of_another_shape_than_the_data(project):
    from fewstep.checkpoint import save_model
    from fewstep.model import ModelConfig, build

    architecture = {"name": "unet", "width": 8, "multipliers": [1]}
    model = build(ModelConfig(architecture=architecture, shape=(3, 16, 16)), seed=0)
    save_model(project / "data/foreign", model)
    project.set(pretrain={"base": {"checkpoint": "data/foreign"}})
    said = project.refused("python -m stages.pretrain base")
    assert "data/foreign makes samples of shape (3, 16, 16), the data has (1, 8, 8)" in said
