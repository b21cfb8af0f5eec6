import json
import os

import pytest
from making import write

from fewstep.errors import UserError
from fewstep.shards import Batches, Shards


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[2000] ^= 1
    path.write_bytes(damaged)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-512]), "cut or altered"),
        (lambda path: path.write_bytes(b""), "cut or altered"),
        (flip, "sha256"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, message):
    shards = write(tmp_path)
    damage(tmp_path / "shard-00002.tar")
    for act in (
        shards.verify,
        shards.load,
        lambda: shards.read(2),
        lambda: Batches(shards, seed=0, size=8).at(0),
    ):
        with pytest.raises(UserError, match=rf"shard-00002\.tar.*{message}.*run the stage"):
            act()
    shards.read(1)


def test_a_shard_in_another_ones_place_is_refused(tmp_path):
    shards = write(tmp_path)
    os.replace(tmp_path / "shard-00000.tar", tmp_path / "shard-00001.tar")
    with pytest.raises(UserError, match="altered"):
        shards.read(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["shards"][0].update(name="../secret.tar"), "contradicts itself"),
        (lambda index: index.update(samples=7), "contradicts itself"),
        (lambda index: index.update(version=0), "version 0"),
        (lambda index: index.pop("facts"), "damaged"),
    ],
)
def test_a_bad_index_is_refused(tmp_path, change, message):
    write(tmp_path)
    index = json.loads((tmp_path / "shards.json").read_text())
    change(index)
    (tmp_path / "shards.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        Shards(tmp_path)


def test_an_index_that_tells_of_other_fields_is_refused(tmp_path):
    write(tmp_path)
    text = (tmp_path / "shards.json").read_text().replace('"float32"', '"float16"')
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(UserError, match=r"doesn't hold what shards\.json says"):
        Shards(tmp_path).read(0)
