import json

import pytest

from fewstep.errors import UserError
from flows import summary
from stages.artifacts import places, timings


def row(name, grid, **facts):
    model, _, nfe = name.partition("@")
    numbers = {"nfe": int(nfe.partition("/")[0]), "fd_clf": 1.23456, "fd_clf_se": 0.0421}
    numbers |= {"fd_over_teacher": 1.5, "fd_over_teacher_se": 0.04, "fd_over_teacher_spread": 0.2}
    numbers |= {"floor": 0.5, "floor_samples": 450, "fd_at_floor_samples": 2.5}
    return {"name": name, "model": model, "grid": grid} | numbers | facts


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        row("base@32", "uniform"),
        row("base@64/fine", "fine", nfe=64, fd_over_teacher=1.0, fd_over_teacher_spread=0.0),
        row("base@4", "bellman"),
        row("boss-4@4", "own", fd_clf=1234.5),
    ]
    summary.EVALUATION.mkdir(parents=True)
    (summary.EVALUATION / "metrics.json").write_text(json.dumps({"headline": {}, "rows": rows}))


def test_each_model_has_its_numbers_and_timings_where_they_are_known(evaluated, capsys):
    timings.note(places.SAMPLING_SECONDS, "boss-4@4", 0.1234)
    summary.show(summary.EVALUATION)
    head_above, head, *lines, report = capsys.readouterr().out.strip().splitlines()
    assert head_above.split() == ["at", "floor", "at", "s", "per"]
    assert head.split() == ["model", "NFE", "÷", "teacher", "fd_clf", "n=450", "n=450", "1000"]
    assert [line.split() for line in lines if line] == [
        ["base", "32", "1.5", "±", "0.2", "1.23", "±", "0.04", "2.5", "0.5", "-"],
        ["base,", "fine", "64", "1", "±", "0.04", "1.23", "±", "0.04", "2.5", "0.5", "-"],
        ["boss-4", "4", "1.5", "±", "0.2", "1.23e+03", "±", "0.04", "2.5", "0.5", "0.123"],
    ]
    assert report.endswith("artifacts/evaluate/report.html")


def test_before_the_first_run_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="fewstep run"):
        summary.show(summary.EVALUATION)
