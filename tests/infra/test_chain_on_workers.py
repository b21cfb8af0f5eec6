"""The real chain, started as on Prefect's page and run by three machines of a team."""

import pytest
from chain.checkout import Checkout
from machines import Office

from flows.system import git
from flows.workspaces.variant import Variant

STAGES = {
    "prepare": "cpu",
    "nets": "cpu",
    "pretrain@base": "gpu",
    "couple@round1": "gpu",
    "search@base": "gpu",
    "trajectories@base": "gpu",
    "distill@boss-4": "gpu",
    "evaluate": "cpu",
}
STEPS, VARIANTS = "distill.boss-4.train.steps", range(5, 7)
SLOW = {"couple.round1.nfe": 256}  # so slow that it is not done when its chain is cancelled


def less_work(checkout: Checkout) -> None:
    params = checkout.params()
    kept = {"search": "base", "distill": "boss-4"}
    fewer = {section: {key: params[section][key]} for section, key in kept.items()}
    less = {"evaluate": params["evaluate"] | {"samples": 50, "nfe": [4]}}
    checkout.write_params(params | fewer | less | {"reflow": {}})


@pytest.fixture(scope="module")
def office(team, servers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("office")
    project = Checkout.create(folder / "project")
    less_work(project)
    # A machine that died is given up sooner.
    project.edit("flows/workers/driver.py", "SILENCE_SECONDS = 90.0", "SILENCE_SECONDS = 30.0")
    project.edit("flows/stage.py", "SECONDS_BETWEEN_BEATS = 10", "SECONDS_BETWEEN_BEATS = 2")
    project.sh("dvc remote add -q --default team s3://dvc && git commit -qam 'A team'")
    made = Office(team, project, folder)
    try:
        for pool in ("driver", "cpu", "gpu"):
            made.add(pool, pool, sooner=True)
        made.machines["driver"].sh("fewstep deploy")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def ran(office):
    """The flow run of a whole chain."""
    run = office.start()
    state = office.end_of(run)
    assert state["message"] == f"{len(STAGES)} completed"
    return run


@pytest.fixture(scope="module")
def alone(finished, tmp_path_factory) -> Checkout:
    """A checkout in which the same chain ran without servers."""
    checkout = finished.copy(tmp_path_factory.mktemp("alone") / "checkout")
    less_work(checkout)
    assert checkout.repro().ran == ["evaluate"]
    return checkout


def test_each_stage_runs_once_on_a_worker_of_its_pool(office, ran):
    assert office.stage_runs(ran) == sorted((stage, pool, "Completed") for stage, pool in STAGES.items())


def test_each_run_of_a_worker_ends_its_process(office, ran):
    for machine in office.machines.values():
        assert "Hook 'end_soon' finished running successfully" in machine.said.read_text()


def test_the_lock_and_the_outputs_are_those_of_a_repro(office, ran, alone):
    driver = office.machines["driver"]
    there = alone.locked()
    assert driver.locked() == {stage: there[stage] for stage in STAGES}
    driver.sh("dvc pull -q")
    assert "up to date" in driver.sh("dvc status")
    assert driver.files("artifacts") == alone.files("artifacts")


def test_all_machines_record_one_run_with_a_child_for_each_stage(office, ran):
    for pool in ("cpu", "gpu"):
        office.machines[pool].wait_for_senders()
    parents = [run for run in office.tracked(ran) if run["fewstep.outcome"] == "pipeline"]
    assert [run["status"] for run in parents] == ["FINISHED"]
    children = [run for run in office.tracked(ran) if run.get("mlflow.parentRunId") == parents[0]["run_id"]]
    told = sorted((run["run_name"], run["fewstep.outcome"], run["status"]) for run in children)
    assert told == sorted((stage, "ran", "FINISHED") for stage in STAGES)


def test_variants_of_a_sweep_have_the_results_of_repros(office, ran, alone, tmp_path):
    driver, single = office.machines["driver"], alone.copy(tmp_path / "single")
    state = office.end_of(office.start("fewstep sweep/sweep", grid={STEPS: list(VARIANTS)}))
    assert state["message"].startswith(f"{len(VARIANTS)} of {len(VARIANTS)} variants completed"), state
    for steps in VARIANTS:
        single.set(distill={"boss-4": {"train": {"steps": steps}}})
        assert single.repro().ran == ["distill@boss-4", "evaluate"]
        place = Checkout(Variant.of(driver.folder, {STEPS: steps}).folder)
        assert {name: place.locked()[name] for name in STAGES} == {n: single.locked()[n] for n in STAGES}
    assert "Unable to acquire lock" not in driver.said.read_text()


@pytest.fixture(scope="module")
def victim(office):
    """In the place of the machine of pool gpu, one on which every process begins as it does for users."""
    office.machines.pop("gpu").die()
    return office.add("victim", "gpu")


def shards(office) -> int:
    """Return how many shards of the slow coupling there are."""
    return len(office.scratch("couple@round1", "out/train/.shard-*.tar.json"))


def test_a_cancelled_variant_leaves_no_process_and_changes_nothing(office, ran, victim):
    driver = office.machines["driver"]
    before = (driver / "dvc.lock").read_bytes()
    run = office.start(overrides=SLOW)
    office.wait_for(lambda: shards(office))
    office.cancel(run)
    office.wait_for(lambda: not office.at_work(), seconds=30)
    assert office.end_of(run)["type"] == "CANCELLED"
    office.wait_for(lambda: office.stage_runs(run) == [("couple@round1", "gpu", "Cancelled")], every=0.5)
    assert (driver / "dvc.lock").read_bytes() == before
    assert git.changes(driver.folder) == ["dvc.lock"]


def test_a_stage_resumes_on_its_worker_and_on_another_machine_when_that_dies(office, ran, victim):
    done = shards(office)
    run = office.start(overrides=SLOW)
    office.wait_for(lambda: shards(office) > done)
    office.machines.pop("victim").die()
    heir = office.add("heir", "gpu")
    assert office.end_of(run)["message"] == f"{len(STAGES) - 1} cached, 1 completed"
    assert office.stage_runs(run) == [("couple@round1", "gpu", state) for state in ("Completed", "Crashed")]
    for machine in (victim, heir):
        assert "couple@round1: resuming from sample" in machine.said.read_text()
