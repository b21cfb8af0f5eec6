"""Kept entries: parallel evaluations share them, damage costs a measurement, old ones are garbage."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from jobs import job_in
from processes import wait_for

from fewstep.checkpoint import load_model, model_digest, save_model
from fewstep.errors import UserError
from fewstep.grids import uniform
from fewstep.metrics.protocol import BlockScores
from fewstep.model import ModelConfig, build
from flows import gc
from stages.evaluation import evaluation, measuring
from stages.evaluation.entries import Entry, KeptEntries, Result
from stages.settings.fields import Plugin

ENTRY, OTHER = (Entry(name, "uniform", uniform(4), 4, name, 1.0) for name in ("boss-4", "base"))
SCORES = BlockScores(1.5, 0.1, 1.6, 0.2, 1.7, 0.01, 0.001, 2, 50, (1.4, 1.6))
RESULT = Result((SCORES, SCORES), {"recall": 0.5}, torch.arange(12.0).reshape(3, 4), torch.ones(5, 4))


@pytest.fixture
def kept(tmp_path):
    return KeptEntries(tmp_path / ".fewstep/entries", "protocol", 1)


def same(one, other):
    return (one.scores, one.more) == (other.scores, other.more) and torch.equal(one.samples, other.samples)


def test_an_entry_is_found_under_all_that_decides_it(kept):
    kept.write(ENTRY, RESULT)
    assert same(kept.read(ENTRY), RESULT)
    assert kept.read(OTHER) is None
    assert kept.read(replace(ENTRY, grid=uniform(5))) is None
    soft, softer = ({"name": "sde", "strength": strength} for strength in (0.5, 1.0))
    sampled = [replace(ENTRY, sampler=Plugin("fewstep.samplers").decode(each)) for each in (soft, softer)]
    kept.write(sampled[0], replace(RESULT, more={"recall": 0.7}))
    assert [kept.read(entry) is None for entry in sampled] == [False, True]
    assert kept.read(ENTRY).more == RESULT.more
    assert KeptEntries(kept.folder, "protocol", 2).read(ENTRY) is None


@pytest.mark.parametrize("last", [".safetensors", ".json"])
def test_two_processes_may_write_one_entry_at_once(kept, monkeypatch, last):
    rename, overtaken = Path.replace, []

    def overtake(partial, target):
        if target.suffix == last and not overtaken:
            overtaken.append(target)
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: 1)
                kept.write(ENTRY, RESULT)
        return rename(partial, target)

    monkeypatch.setattr(Path, "replace", overtake)
    kept.write(ENTRY, RESULT)
    assert overtaken
    assert same(kept.read(ENTRY), RESULT)
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
        ("json", lambda content: content.replace(b"1.5", b"1.4", 1)),
        ("json", lambda content: content.replace(b'"recall": 0', b'"recall": 1', 1)),
        ("safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("safetensors", half),
        ("safetensors", lambda _: b""),
        ("safetensors", None),
    ],
)
def test_a_damaged_entry_is_measured_and_kept_again(kept, suffix, damage):
    kept.write(ENTRY, RESULT)
    (file,) = kept.folder.glob(f"*.{suffix}")
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
    said = []
    assert kept.read(ENTRY, said.append) is None
    assert len(said) == 1
    assert said[0].startswith("boss-4@4 is measured again: ")
    kept.write(ENTRY, RESULT)
    assert same(kept.read(ENTRY), RESULT)


def test_an_entry_that_was_never_kept_is_not_reported(kept):
    said = []
    assert kept.read(ENTRY, said.append) is None
    assert said == []


@pytest.mark.parametrize("again", [True, False])
def test_an_evaluation_that_is_made_again_measures_each_entry_once_more(kept, tmp_path, monkeypatch, again):
    kept.write(ENTRY, RESULT)
    kept.write(OTHER, RESULT)
    measured = []

    def spread(work, items, **options):
        for item in items:
            measured.append(item)
            yield item, RESULT

    monkeypatch.setattr(measuring, "spread", spread)
    monkeypatch.setattr(measuring.Measurements, "constants", None)
    job = job_in(tmp_path, "evaluate", again=again, inputs={"data": tmp_path, "nets": tmp_path})
    all_of_it = measuring.Measurements(job, None, {}, "float32", kept, {}, {})
    all_of_it.measure([ENTRY])
    all_of_it.measure([ENTRY, OTHER])
    assert measured == ([ENTRY, OTHER] if again else [])
    assert torch.equal(kept.ends(OTHER), RESULT.ends)
    assert not any(len(result.ends) for result in all_of_it.results.values())  # they may be large


def test_a_model_that_changed_after_it_was_listed_keeps_no_entry_and_others_do(kept, tmp_path, monkeypatch):
    """As when a stage publishes a student again while models are measured ahead."""
    model = tmp_path / "boss-4"
    config = ModelConfig(architecture={"name": "mlp", "width": 4, "depth": 1}, shape=(2,))
    save_model(model, build(config, seed=0))
    listed = replace(ENTRY, model="boss-4", digest=model_digest(model))
    folders = {"boss-4": model, "gone": tmp_path / "gone"}
    worker = {"yardstick": SimpleNamespace(measure=lambda *_: RESULT), "folders": folders}
    monkeypatch.setattr(measuring, "WORKER", worker | {"precision": "float32"})
    monkeypatch.setattr(measuring, "spread", lambda work, items, **_: ((item, work(item)) for item in items))
    monkeypatch.setattr(measuring.Measurements, "constants", None)
    job = job_in(tmp_path, "evaluate", inputs={"data": tmp_path, "nets": tmp_path})
    other, gone = (
        replace(listed, nfe=8, digest="of another"),
        replace(listed, nfe=9, model="gone", digest="x"),
    )
    measured = measuring.Measurements(job, None, {}, "float32", kept, {}, {})
    with pytest.raises(measuring.ChangedError, match="boss-4, gone changed while evaluate measured it"):
        measured.measure([gone, other, listed])
    assert kept.read(listed)
    assert not kept.read(other)
    assert not kept.read(gone)


def test_garbage_is_what_the_newest_evaluation_neither_read_nor_wrote(kept, tmp_path):
    kept.write(ENTRY, RESULT)
    kept.write(OTHER, RESULT)
    assert not gc.old_entries(tmp_path).items
    for file in kept.folder.iterdir():
        os.utime(file, (1, 1))  # long ago
    newest = KeptEntries(kept.folder, "protocol", 1)
    assert newest.read(ENTRY)
    newest.write(replace(ENTRY, nfe=8, grid=uniform(8)), RESULT)
    garbage = gc.old_entries(tmp_path)
    assert list(garbage.items) == ["2 files"]
    garbage.remove()
    assert newest.read(ENTRY)
    assert not newest.read(OTHER)
    assert not gc.old_entries(tmp_path).items


def test_a_model_that_is_made_again_while_models_are_listed_ends_work_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "device", lambda: "cpu")
    asked = {"entries": lambda: load_model(tmp_path / "gone"), "folders": {"gone": tmp_path / "gone"}}
    assert measuring.ahead(SimpleNamespace(**asked)) is None
    with pytest.raises(UserError, match="gone is no model directory"):
        measuring.ahead(SimpleNamespace(**asked | {"folders": {"there": tmp_path}}))


def test_an_evaluation_that_fails_leaves_the_facts_of_other_models(tmp_path, monkeypatch):
    began, ended = [], Event()

    class Watched(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ended.set()
            super().shutdown(wait)

    def fail(*_):
        wait_for(lambda: began)
        raise UserError("no fine run converges")

    def facts(folder, seed):
        began.append(folder)
        ended.wait(60)

    monkeypatch.setattr(evaluation, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(evaluation, "facts_of", facts)
    monkeypatch.setattr(evaluation, "converge", fail)
    for loaded in ("load_nets", "open_model"):
        monkeypatch.setattr(evaluation, loaded, lambda _: None)
    folders = {name: tmp_path / name for name in "abcde"}
    wanted = SimpleNamespace(
        job=job_in(tmp_path, "evaluate", inputs={"nets": tmp_path}),
        folders=folders,
        fine=SimpleNamespace(model="a"),
        entries=lambda: ([], folders),
        measurements=lambda: None,
    )
    with pytest.raises(UserError, match="no fine run converges"):
        evaluation.evaluate(wanted)
    assert began == [tmp_path / "a"]


def test_nothing_is_measured_ahead_on_a_gpu(monkeypatch):
    monkeypatch.setattr(measuring, "device", lambda: "cuda")
    assert measuring.ahead(None) is None  # nor is anything read
