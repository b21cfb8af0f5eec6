"""What a worker works with: the driver's settings and dvc.lock, not those of the commit."""

import pytest

from flows.dvc import lockfile
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
