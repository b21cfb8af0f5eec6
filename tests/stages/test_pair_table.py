"""The report's table of pairs, from the manifests of models."""

import pytest
from jobs import job_in

from stages.artifacts import manifests
from stages.evaluation.report import pair_table
from stages.sampling.pair_checks import learnt_independent

CHECKS = {"count": 512, "noise_z": 1.234, "noise_off": "tails", "cost": 39.15, "gap": 2.4, "gap_se": 1.9}
LOSS = {"train": 0.01, "held_out": 0.011, "ratio": 1.1, "difference_se": 0.0004, "advice": "enough"}


def manifest(*, stage="reflow", inputs=None, facts=None, config=None):
    named = {name: {"path": path} for name, path in (inputs or {}).items()}
    given = {"stage": stage, "inputs": named, "facts": facts or {}, "config": config or {}}
    return dict.fromkeys(manifests.FIELDS) | given


def table(tmp_path, **models):
    made = {f"model {name}": manifest(**facts) for name, facts in models.items()} | {"data": manifest()}
    inputs = {name: tmp_path / name for name in made}
    return pair_table(job_in(tmp_path, "evaluate", inputs=inputs, manifests=made))


def learnt(coupling="couple/x", advice=(), name="pairs"):
    pairs = {"checks": CHECKS, "problems": ["bad"], "advice": list(advice)}
    return {"inputs": {name: f"artifacts/{coupling}"}, "facts": {"pairs": pairs, "pair_loss": LOSS}}


def test_each_model_that_learnt_from_pairs_has_a_column(tmp_path):
    found = table(tmp_path, base={}, round1=learnt(), student=learnt(name="train_on"))
    assert found.models == ["round1", "student"]
    cells = {label: cells for label, _, cells in found.rows}
    assert cells["pairs checked"] == ["512", "512"]
    assert cells["noise: most deviating statistic, in standard errors"][0] == "1.2"
    assert cells["… which one"] == ["tails", "tails"]
    assert cells["gap of the teacher"][0] == "2.4 ± 1.9"
    assert cells["… over that on training pairs"][0] == "1.10"
    assert cells["V of the teacher"] == ["-", "-"]  # not among the checks


def test_advice_is_listed_once_for_each_coupling_and_then_for_each_model(tmp_path):
    found = table(tmp_path, a=learnt(advice=["curved"]), b=learnt(advice=["curved"]), c=learnt("couple/y"))
    assert found.advice == [
        ("pairs of couple/x", ["bad", "curved"]),
        ("pairs of couple/y", ["bad"]),
        ("a", ["enough"]),
        ("b", ["enough"]),
        ("c", ["enough"]),
    ]


def test_without_pairs_there_is_no_table(tmp_path):
    assert table(tmp_path, base={}).models == []


def test_pairs_whose_checks_are_unknown_still_have_their_loss(tmp_path):
    made = learnt()
    del made["facts"]["pairs"]
    found = table(tmp_path, a=made)
    assert [cells for label, _, cells in found.rows if label in ("cost", "loss on fresh pairs")] == [
        ["-"],
        ["0.011"],
    ]


@pytest.mark.parametrize(
    ("stage", "method", "known"),
    [
        ("pretrain", {"name": "flow_matching"}, True),
        ("pretrain", {"name": "flow_matching", "coupling": "independent"}, True),
        ("pretrain", {"name": "flow_matching", "coupling": "optimal_transport"}, False),
        ("reflow", {"name": "reflow"}, False),
    ],
)
def test_only_a_pretrained_model_learnt_independent_lines(stage, method, known):
    assert learnt_independent(manifest(stage=stage, config={"method": method})) is known
    assert learnt_independent(None) is False
