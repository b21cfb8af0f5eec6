import json

import pytest
from prefect.client.orchestration import get_client

from fewstep.errors import UserError
from flows import pipeline, sweep
from flows.planning.request import SweepRequest

# The toy's last stage makes up the numbers of an evaluation.
MEASURE = """
if name == "last":
    import json, yaml
    width = yaml.safe_load(open("params.yaml"))["last"]["width"]
    evaluation = pathlib.Path("artifacts/evaluate")
    evaluation.mkdir(parents=True, exist_ok=True)
    (evaluation / "metrics.json").write_text(json.dumps({"headline": {"boss-4@4": {"fd_clf": width / 10}}}))
    sys.exit("last: 9 is too wide" if width == 9 else 0)
"""

MEET = """
import yaml
if name == "last":
    name = str(yaml.safe_load(open("params.yaml"))["last"]["width"])
    sys.exit(0 if met(["7", "8"]) else "last: nobody came")
"""


pytestmark = pytest.mark.usefixtures("toys_run_on_a_server")


def test_variants_share_what_they_have_in_common_and_are_compared(toy_that_ran):
    toy = toy_that_ran
    with (toy.root / "work.py").open("a") as work:
        work.write(MEASURE)
    lock = (toy.root / "dvc.lock").read_bytes()
    state = sweep.sweep(toy.root, grid={"last.width": [7, 9]}, experiment="widths", return_state=True)
    assert state.is_failed()
    summary, heads, *lines = state.message.splitlines()
    assert summary == "1 of 2 variants completed"
    assert heads.split() == ["variant", "settings", "state", "boss-4@4"]
    assert [line.split()[1:] for line in lines] == [
        ["last.width=7", "Completed", "0.7"],
        ["last.width=9", "Failed", "-"],
    ]
    for line in lines:
        began = toy.root / ".fewstep/variants" / line.split()[0] / "began"
        assert [text.split()[0] for text in began.read_text().splitlines()] == ["last"]
    assert toy.began() == []
    assert (toy.root / "dvc.lock").read_bytes() == lock
    with get_client(sync_client=True) as client:
        table = next(found for found in client.read_artifacts() if found.key == "sweep")
    assert [row.get("boss-4@4") for row in json.loads(table.data)] == [0.7, None]


def test_variants_run_side_by_side_and_make_what_they_share_once(toy, tmp_path):
    (yard := tmp_path / "yard").mkdir()
    toy.edit("work.py", 'open("began"', f'open("{yard}/began"')
    toy.edit("work.py", "here-{", f"{yard}/here-{{")
    with (toy.root / "work.py").open("a") as work:  # the last stages are done when both have begun
        work.write(MEET)
    state = sweep.sweep(toy.root, grid={"last.width": [7, 8]}, return_state=True)
    assert state.is_completed(), state.message
    began = [line.split()[0] for line in (yard / "began").read_text().splitlines()]
    assert sorted(began) == ["first", "last", "last", "middle@left", "middle@right"]


def test_all_combinations_are_variants_and_none_twice():
    found = sweep.combinations({"a": [1, 2], "b": [3]}, [{"a": 2, "b": 3}, {"c": 4}])
    assert found == [{"a": 1, "b": 3}, {"a": 2, "b": 3}, {"c": 4}]


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({"seed": 3}, r"list of values for seed, such as \[1,2\], got 3"),
        ({}, "needs settings to vary, such as --grid"),
    ],
)
def test_a_sweep_of_nothing_is_a_users_mistake(grid, told):
    with pytest.raises(UserError, match=told):
        sweep.combinations(grid, [])


def test_all_variants_are_checked_before_the_first_runs(toy, monkeypatch):
    monkeypatch.setattr(pipeline, "run_stages", lambda *_: pytest.fail("ran"))
    state = sweep.sweep(toy.root, variants=[{"last.width": 7}, {"lats.width": 7}], return_state=True)
    assert state.is_failed()
    assert state.message == "params.yaml has no lats; did you mean 'last'?"


def test_a_variable_that_every_variant_would_refuse_is_refused_before_the_first_runs(toy, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "many")
    with pytest.raises(UserError, match="FEWSTEP_WORKERS"):
        sweep.run(toy.root, SweepRequest(grid={"last.width": [7, 8]}))
    state = sweep.sweep(toy.root, grid={"last.width": [7, 8]}, return_state=True)  # as a deployment does
    assert state.is_failed()
    assert state.message.startswith("FEWSTEP_WORKERS")
    assert not (toy.root / ".fewstep/variants").exists()
