"""Kept entries: parallel evaluations share them, damage costs a measurement, old ones are garbage."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.grids import uniform
from fewstep.metrics.protocol import BlockScores
from flows import gc
from stages.evaluation.entries import Entry, KeptEntries, Result

ENTRY, OTHER = (Entry(name, "uniform", uniform(4), 4, name, 1.0) for name in ("boss-4", "pretrain"))
TRUTH = uniform(32)
SCORES = BlockScores(1.5, 0.1, 1.6, 0.2, 1.7, 0.01, 0.001, 2, 50, (1.4, 1.6))
RESULT = Result((SCORES, SCORES), {"recall": 0.5}, torch.arange(12.0).reshape(3, 4))


@pytest.fixture
def kept(tmp_path):
    return KeptEntries(tmp_path / ".fewstep/entries", "protocol", 1)


def same(one, other):
    return (one.scores, one.more) == (other.scores, other.more) and torch.equal(one.samples, other.samples)


def test_a_cell_is_found_under_all_that_decides_it(kept):
    kept.write(ENTRY, TRUTH, RESULT)
    assert same(kept.read(ENTRY, TRUTH), RESULT)
    assert kept.read(OTHER, TRUTH) is None
    assert kept.read(replace(ENTRY, grid=uniform(5)), TRUTH) is None
    assert kept.read(ENTRY, uniform(64)) is kept.read(ENTRY, None) is None
    assert KeptEntries(kept.folder, "protocol", 2).read(ENTRY, TRUTH) is None


@pytest.mark.parametrize("last", [".safetensors", ".json"])
def test_two_processes_may_write_one_cell_at_once(kept, monkeypatch, last):
    rename, overtaken = Path.replace, []

    def overtake(partial, target):
        if target.suffix == last and not overtaken:
            overtaken.append(target)
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: 1)
                kept.write(ENTRY, TRUTH, RESULT)
        return rename(partial, target)

    monkeypatch.setattr(Path, "replace", overtake)
    kept.write(ENTRY, TRUTH, RESULT)
    assert overtaken
    assert same(kept.read(ENTRY, TRUTH), RESULT)
    assert {file.suffix for file in kept.folder.iterdir()} == {"", ".json", ".safetensors"}


def half(content):
    return content[: len(content) // 2]


def without_kid(content):
    found = json.loads(content)
    del found["scores"][1]["kid_clf"]
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("json", half),
        ("json", lambda _: b""),
        ("json", lambda _: b"[]"),
        ("json", lambda _: b"\xff"),
        ("json", lambda _: b"{}"),
        ("json", without_kid),
        ("safetensors", half),
        ("safetensors", lambda _: b""),
        ("safetensors", None),
    ],
)
def test_a_damaged_cell_is_measured_and_kept_again(kept, suffix, damage):
    kept.write(ENTRY, TRUTH, RESULT)
    (file,) = kept.folder.glob(f"*.{suffix}")
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
    assert kept.read(ENTRY, TRUTH) is None
    kept.write(ENTRY, TRUTH, RESULT)
    assert same(kept.read(ENTRY, TRUTH), RESULT)


def test_garbage_is_what_the_newest_evaluation_neither_read_nor_wrote(kept, tmp_path):
    kept.write(ENTRY, TRUTH, RESULT)
    kept.write(OTHER, TRUTH, RESULT)
    assert not gc.old_entries(tmp_path).items
    for file in kept.folder.iterdir():
        os.utime(file, (1, 1))  # long ago
    newest = KeptEntries(kept.folder, "protocol", 1)
    assert newest.read(ENTRY, TRUTH)
    newest.write(replace(ENTRY, nfe=8, grid=uniform(8)), TRUTH, RESULT)
    garbage = gc.old_entries(tmp_path)
    assert list(garbage.items) == ["2 files"]
    garbage.remove()
    assert newest.read(ENTRY, TRUTH)
    assert not newest.read(OTHER, TRUTH)
    assert not gc.old_entries(tmp_path).items
