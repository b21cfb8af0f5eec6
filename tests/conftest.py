"""The tiny chain that really ran, once for all tests that need its results."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chain.checkout import Checkout
from filelock import FileLock


@pytest.fixture(scope="session")
def clones(tmp_path_factory) -> tuple[Checkout, Checkout]:
    """Two clones of one commit, in each of which the whole chain ran; to look at, not to touch."""
    folder = shared(tmp_path_factory)
    both = tuple(Checkout(folder / name) for name in ("first", "second"))
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            origin = Checkout.create(folder / "origin")
            for workers, clone in enumerate(both, start=1):
                origin.sh(f"git clone -q . {clone.folder}")
                clone.environment["FEWSTEP_WORKERS"] = str(workers)  # which may not show in the bytes
            with ThreadPoolExecutor() as pool:
                list(pool.map(Checkout.repro, both))
            for clone in both:
                clone.sh("git add dvc.lock && git commit -qm ran")
            (folder / "done").touch()
    return both


@pytest.fixture(scope="session")
def finished(clones) -> Checkout:
    """A checkout in which the chain ran; to look at, not to touch."""
    return clones[0]


@pytest.fixture
def checkout(finished, tmp_path) -> Checkout:
    """A copy of it, to do anything with."""
    return finished.copy(tmp_path / "checkout")


def shared(tmp_path_factory) -> Path:
    """Return a folder that all processes of this test session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "chain"
    folder.mkdir(exist_ok=True)
    return folder
