"""What a file of pairs holds beside fields is counted, and a field is one whatever its key looks like."""

import numpy as np
import pytest
import torch
from test_imported import EXTRAS, arrays, samples, save_tar, with_member

from fewstep.pairs.imported import open_pairs


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


def test_arrays_that_an_npz_of_pairs_holds_beside_are_named(root):
    np.savez(root / "data" / "pairs.npz", **arrays(labels=np.arange(10), t=np.ones(10)))
    assert open_pairs("pairs.npz", root).notes == ["data/pairs.npz: passed over 1 labels, 1 t"]
    np.savez(root / "data" / "pairs.npz", **arrays())
    assert open_pairs("pairs.npz", root).notes == []


@pytest.mark.parametrize("key", ["{}.5", "0.{}", "run.1/step.{}", "seed=0.25,{}", "v1.2.{}", "{}"])
def test_keys_may_hold_dots(root, key):
    fields = arrays(**EXTRAS)
    records = [record | {"__key__": key.format(i)} for i, record in enumerate(samples(fields, label="cls"))]
    save_tar(root / "data" / "pairs.tar", records)
    pairs = open_pairs("pairs.tar", root)
    assert (pairs.count, pairs.notes) == (10, [])
    assert torch.equal(pairs.read(0, 10)["noise"], torch.from_numpy(fields["noise"]))
    assert torch.equal(pairs.read(0, 10)["label"], torch.from_numpy(fields["label"]))


def test_members_whose_name_starts_with_a_dot_are_no_fields(root):
    with_member(root / "data" / "pairs.tar", "deep/._0000.noise.npy", content=b"what macOS leaves")
    pairs = open_pairs("pairs.tar", root)
    assert (pairs.count, pairs.notes) == (1, [])


def test_other_arrays_are_counted_by_their_name_and_numbers_are_none(root):
    more = {"1.npy": np.ones(1), "x.1.npy": np.ones(1), "t.npy": np.ones(1), "txt": "cat"}
    save_tar(root / "data" / "pairs.tar", [record | more for record in samples(arrays(n=2))])
    (note,) = open_pairs("pairs.tar", root).notes
    assert note == "data/pairs.tar: passed over 4 .npy, 2 .txt, 2 t.npy"
