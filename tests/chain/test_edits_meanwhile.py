"""params.yaml edited while a stage runs: old work never gets new settings' name."""

import json

from processes import wait_for
from test_kills import steps_on_disk


def test_settings_edited_while_pretrain_runs(checkout, finished):
    out = checkout.forget("pretrain@base")
    dvc = checkout.begin("dvc", "repro", "pretrain@base", FEWSTEP_CHECKPOINT_SECONDS="0")
    wait_for(lambda: steps_on_disk(checkout) >= 2)
    checkout.set(pretrain={"base": {"train": {"steps": 8}}})
    said, _ = dvc.communicate()
    assert dvc.returncode != 0
    assert "settings, code or inputs changed while this ran, so nothing was published" in said
    assert "config.train.steps: 60 -> 8" in said
    assert "Traceback" not in said
    assert not (checkout / out).exists()
    assert "pretrain@base" not in checkout.locked()
    assert not list((checkout / ".dvc/cache").glob("runs/*/*/*"))

    assert checkout.repro("pretrain@base").ran == ["pretrain@base"]
    manifest = json.loads((checkout / out / "manifest.json").read_text())
    assert manifest["config"]["train"]["steps"] == 8
    assert manifest["fingerprint"] != json.loads(finished.files(out)["manifest.json"])["fingerprint"]

    checkout.set(pretrain={"base": {"train": {"steps": 60}}})
    back = checkout.repro("pretrain@base")
    assert "made before, publishing it" in back.said
    assert checkout.files(out) == finished.files(out)
