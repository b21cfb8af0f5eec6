"""What a worker works with: the driver's settings and dvc.lock, not those of the commit."""

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from workspace import CHECKOUT

from fewstep.errors import UserError
from flows import gc, recover, stage
from flows.dvc import commands, lockfile, repo
from flows.workers import driver
from flows.workspaces import clone


@pytest.fixture
def committed(toy_that_ran):
    """A project whose commit has a dvc.lock."""
    toy_that_ran.sh("git add -A && git commit -qm ran")
    return toy_that_ran


@pytest.mark.parametrize("lock", ["", "schema: '2.0'\nstages: {}\n"])
def test_a_worker_has_the_drivers_settings_and_lockfile(committed, lock):
    with clone.clone(committed.root, "first-1", lock, "seed: 7\n") as root:
        assert lockfile.text(root) == lock
        assert (root / lockfile.FILE).exists() == bool(lock)
        assert (root / "params.yaml").read_text() == "seed: 7\n"


def test_the_entries_that_a_stage_rests_on_travel_and_suffice(committed, tmp_path):
    committed.sh(f"dvc remote add -q -d store {tmp_path}/remote && git add -A && git commit -qm store")
    committed.sh("dvc push -q")
    order = driver.order("middle@left", committed.root)
    assert yaml.safe_load(order["lock"])["stages"].keys() == {"first", "middle@left"}
    with clone.clone(committed.root, "left-1", order["lock"], order["params"]) as root:
        clone.bring_in("middle@left", root, lambda line: None)
        assert (root / "artifacts/first/params.yaml").exists()
        assert repo.read(root)["middle@left"].changed == (
            {"changed outs": {"artifacts/middle/left": "deleted"}},
        )


def test_an_output_is_sent_again_until_the_storage_takes_it(committed, tmp_path, prefect_api, monkeypatch):
    remote, tries, run = tmp_path / "remote", [], commands.run
    remote.touch()  # where a folder should be: the storage takes nothing
    committed.sh(f"dvc remote add -q -d store {remote}")
    monkeypatch.setattr(stage.send_out, "retry_delay_seconds", 0)

    def counted(*command):
        tries.append(command)
        if len(tries) == 3:
            remote.unlink()
        run(*command)

    monkeypatch.setattr(commands, "run", counted)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        stage.send_out("middle@left", committed.root, lambda line: None)
    assert len(tries) == 3
    committed.sh("rm -rf .dvc/cache artifacts/middle/left && dvc pull -q middle@left")


def test_what_the_server_does_not_take_ends_in_one_message(prefect_api):
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="large", type="process"))
        stage.run_stage.from_source(str(CHECKOUT), "flows/stage.py:run_stage").deploy(
            name="large", work_pool_name="large", print_next_steps=False
        )
        told = r"does not take first for pool large \(422: .*less than 524,288 bytes"
        with pytest.raises(UserError, match=told):
            driver.send(client, "first", "large", {"lock": "x" * 2**20})


def test_nothing_is_collected_or_mended_while_a_worker_runs_a_stage(toy, monkeypatch):
    monkeypatch.setattr(gc, "scratch_folders", list)
    with clone.clone(toy.root, "first-1", "", "seed: 7\n") as root:
        with pytest.raises(UserError, match=rf"a worker's stage in {root} is running; collect"):
            gc.refuse_while_busy(toy.root)
        with pytest.raises(UserError, match=f"a worker runs a stage in {root}; cancel it"):
            recover.recover(toy.root)
    gc.refuse_while_busy(toy.root)
    assert recover.recover(toy.root) == []
