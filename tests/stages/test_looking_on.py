"""What looks at a result that another stage may be making, and changes none of it."""

from types import SimpleNamespace

import pytest

from stages.artifacts import manifests
from stages.artifacts.scratch import Scratch
from stages.run import runner


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Return the finished scratch of a training that the runner is asked for; its one file is damaged."""
    monkeypatch.setenv("FEWSTEP_SCRATCH", str(tmp_path))
    monkeypatch.setenv("FEWSTEP_NODES", "2")
    monkeypatch.setenv("FEWSTEP_NODE_RANK", "1")
    monkeypatch.delenv("FEWSTEP_AGAIN", raising=False)
    plan = SimpleNamespace(
        stage="pretrain",
        key="base",
        seed=0,
        address="pretrain@base",
        fingerprint="f00d",
        inputs={},
        ancestors=[],
        config=None,
        check_inputs=lambda: None,
        module=SimpleNamespace(Config=SimpleNamespace(model_fields={"train": None}), run=pytest.fail),
    )
    monkeypatch.setattr(runner, "read_plan", lambda stage, key: plan)
    scratch = Scratch.of(plan.address, plan.fingerprint)
    scratch.out.mkdir(parents=True)
    (scratch.out / "model").write_text("whole")
    facts = dict.fromkeys(manifests.FIELDS) | {"files": manifests.describe(scratch.out)}
    manifests.write(scratch.manifest, facts)
    (scratch.out / "model").write_text("wrong")
    return scratch, plan


def contents(scratch):
    return {file: file.read_text() for file in manifests.files_below(scratch.folder)}


def test_an_estimate_changes_nothing(finished, capsys):
    scratch, _ = finished
    before = contents(scratch)
    runner.show_plan("pretrain", "base", None)
    assert "is made already" in capsys.readouterr().out
    assert contents(scratch) == before


def test_a_helper_takes_part_in_what_is_made_again(finished, monkeypatch, capsys):
    _, plan = finished
    took_part = []
    plan.module.run = lambda config, job: took_part.append(job.result)
    monkeypatch.setenv("FEWSTEP_AGAIN", "1")
    runner.help_train("pretrain", "base")
    assert took_part == ["pretrain@base.f00d"]
    assert "the share of this machine is done" in capsys.readouterr().out


def test_a_helper_leaves_the_result_to_the_first_machine(finished, capsys):
    scratch, _ = finished
    before = contents(scratch)
    runner.help_train("pretrain", "base")
    assert "the first machine has finished it" in capsys.readouterr().out
    assert contents(scratch) == before
