"""The numbers of the tiny chain stay what they were, unless a VERSION says that they are new.

golden.json holds what each stage wrote among its facts. To record it again, after a bump of VERSION, a
change of tests/chain/tiny.py or a new torch:

    FEWSTEP_RECORD_GOLDEN=1 python -m pytest tests/test_golden.py
"""

import hashlib
import json
import math
import os
from importlib.metadata import version
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("golden.json")
RECORD = "FEWSTEP_RECORD_GOLDEN=1 python -m pytest tests/test_golden.py"
RELATIVE = 0.01
SHOWN = ("fd_over_teacher", "fd_clf", "kid_clf", "endpoint_rmse", "outside")


@pytest.fixture(scope="module")
def today(finished):
    """What golden.json would say of the chain that just ran."""
    params, stages = finished.params(), {}
    for file in sorted((finished / "artifacts").rglob("manifest.json")):
        manifest = json.loads(file.read_text())
        stage, key = manifest["stage"], manifest["key"]
        numbers = dict(flat(manifest["facts"]))
        if stage == "evaluate":
            rows = json.loads((file.parent / "metrics.json").read_text())["headline"].items()
            found = {f"{name}.{shown}": row[shown] for name, row in rows for shown in SHOWN}
            numbers |= {name: value for name, value in found.items() if value is not None}
        section = params[stage][key] if key else params[stage]
        settings = hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()
        stages[stage + (f"@{key}" if key else "")] = {
            "version": manifest["version"],
            "settings": settings[:16],
            "numbers": numbers,
        }
    return {"torch": version("torch").partition("+")[0], "stages": stages}


@pytest.fixture(scope="module")
def golden(today):
    if os.environ.get("FEWSTEP_RECORD_GOLDEN"):
        FILE.write_text(json.dumps(today, indent=1, sort_keys=True) + "\n")
    return json.loads(FILE.read_text())


def flat(tree: dict, prefix: str = ""):
    """Yield the dotted name and value of every float in a tree of facts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, value


def made_of(record: dict) -> dict[str, tuple]:
    """Return the VERSION and settings of each stage."""
    return {name: (stage["version"], stage["settings"]) for name, stage in record["stages"].items()}


def test_golden_json_is_of_the_stages_as_they_are(today, golden):
    assert made_of(golden) == made_of(today), f"a VERSION or setting is new; record the numbers: {RECORD}"


def test_numbers_do_not_move_without_a_new_version(today, golden):
    if golden["torch"] != today["torch"]:
        pytest.skip(
            f"recorded with torch {golden['torch']}, this is {today['torch']}; record again: {RECORD}"
        )
    if made_of(golden) != made_of(today):
        pytest.skip("the test above says what to do")
    moved = []
    for address, stage in golden["stages"].items():
        now = today["stages"][address]["numbers"]
        moved += [
            f"  {address} {name}: {was:.6g} -> {now.get(name, math.nan):.6g}"
            for name, was in stage["numbers"].items()
            if now.get(name) != pytest.approx(was, rel=RELATIVE, abs=1e-6)
        ]
    assert not moved, (
        "numbers moved, but no VERSION did:\n" + "\n".join(moved) + "\nFind out why; if it is meant, bump "
        f"VERSION in the first of these stages, so that DVC makes its outputs again, and run {RECORD}"
    )


def test_every_kind_of_stage_is_recorded(golden):
    stages = {name.partition("@")[0] for name in golden["stages"]}
    assert stages == {
        *("prepare", "nets", "pretrain", "couple", "reflow", "search", "trajectories", "distill", "evaluate")
    }
    trained = [golden["stages"][name]["numbers"] for name in golden["stages"] if "distill" in name]
    assert all({"loss", "held_out_loss"} <= numbers.keys() for numbers in trained)
