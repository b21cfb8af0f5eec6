"""A run that is cancelled in Prefect's UI while a model trains leaves nothing behind, and is resumed."""

import preloaded
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from processes import alive, below, wait_for
from test_kills import steps_on_disk

from flows import recover
from flows.workspaces import workspace_lock

OFTEN = {"FEWSTEP_CHECKPOINT_SECONDS": "0"}  # before every step


def test_a_cancelled_training_leaves_no_process_and_the_next_run_resumes(checkout, prefect_api, tmp_path):
    checkout.forget("pretrain@base")
    checkout.set(pretrain={"base": {"train": {"steps": 300}}})
    undisturbed = checkout.copy(tmp_path / "undisturbed")

    only_pretrain = ("fewstep", "run", "--only", "pretrain@base")
    run = checkout.begin(*only_pretrain, said=tmp_path / "said", PREFECT_API_URL=prefect_api, **OFTEN)
    wait_for(lambda: steps_on_disk(checkout) >= 4)
    processes = [run.pid, *below(run.pid)]
    note = workspace_lock.read_note(workspace_lock.lock_of(checkout.folder))
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        client.set_flow_run_state(note["id"], Cancelling())
        wait_for(lambda: run.poll() is not None and not any(map(alive, processes)))
        assert client.read_flow_run(note["id"]).state.is_cancelled()
    assert run.returncode != 0
    assert list(recover.running_processes([checkout.folder])) == []
    assert recover.recover(checkout.folder) == []
    assert 0 < steps_on_disk(checkout) < 300

    sooner = {"PYTHONPATH": preloaded.BEGUN, "PREFECT_API_URL": prefect_api}
    assert "resuming from step" in checkout.sh(" ".join(only_pretrain), **sooner)
    undisturbed.repro("pretrain@base")
    assert checkout.files("artifacts/models") == undisturbed.files("artifacts/models")
