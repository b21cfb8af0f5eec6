import json

import pytest
import torch

from fewstep import rows
from fewstep.metrics import denoiser, features
from fewstep.metrics.nets import FIRST, KINDS, load_nets, train_net
from fewstep.shards import Column, write_shards


def images(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pictures = torch.rand(n, 1, 8, 8, generator=generator) - 1
    pictures[torch.arange(n), 0, labels] += 1
    return pictures, labels


def trained(labels=True, data=None, **options):
    pictures, classes = images()
    data = pictures if data is None else data
    asked = {"pixels": True, "steps": 5, "clusters": 4, "seed": 0} | options
    return {kind.name: train_net(kind, data, classes if labels else None, **asked) for kind in KINDS}


def test_nets_differ_in_width_and_weights_and_one_saw_no_label():
    found = trained()
    assert list(found) == [kind.name for kind in KINDS]
    assert len({net.width for net in found.values()}) == len({net.digest for net in found.values()}) == 3
    assert sorted(net.taught_by for net in found.values()) == ["denoising", "labels", "labels"]
    assert all(net.pixels for net in found.values())
    assert found[FIRST].classes == 3


def test_no_net_of_the_evaluation_is_that_of_the_monitor():
    data, _ = images()
    own = denoiser.train_denoiser(data, pixels=True, steps=5, seed=0)
    digests = {net.digest for net in trained().values()}
    same_width = denoiser.train_denoiser(data, pixels=True, width=KINDS[2].width, steps=5, seed=0)
    assert not digests & {own.digest, same_width.digest}


def test_clusters_stand_in_for_labels_that_the_data_has_not():
    found = trained(labels=False)
    assert [net.classes for net in found.values()] == [4, 4, 0]
    assert [net.taught_by for net in found.values()] == ["clusters4", "clusters4", "denoising"]


def test_same_seed_same_nets_another_seed_others():
    first, again, other = (trained(seed=seed) for seed in (0, 0, 1))
    digests = [[net.digest for net in found.values()] for found in (first, again, other)]
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


@pytest.mark.parametrize("labels", [True, False])
def test_a_set_on_the_disk_that_is_read_piece_by_piece_teaches_the_same_nets(tmp_path, monkeypatch, labels):
    data, _ = images()
    shards = write_shards(tmp_path, len(data), 30, lambda a, b: {"data": data[a:b]}, facts={})
    whole = trained(labels)
    monkeypatch.setattr(rows, "PIECE_BYTES", 64 * 64 * 4)
    found = trained(labels, Column(shards, "data"))
    assert {name: net.digest for name, net in found.items()} == {
        name: net.digest for name, net in whole.items()
    }


@pytest.mark.parametrize("pixels", [True, False])
def test_nets_are_loaded_from_a_folder_with_what_they_measure(tmp_path, pixels):
    found = trained(pixels=pixels)
    for name, net in found.items():
        features.save(tmp_path, net, {}, name=name)
    loaded = load_nets(tmp_path)
    assert {name: net.backend for name, net in loaded.items()} == {
        name: net.backend for name, net in found.items()
    }
    assert all(net.pixels == pixels for net in loaded.values())
    assert json.loads((tmp_path / f"{FIRST}.json").read_text())["pixels"] == pixels
