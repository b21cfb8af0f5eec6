"""What tests of kills share, and those of wrong input."""

import pytest
from chain.checkout import Checkout


@pytest.fixture(scope="session")
def slow(tiny_chain, tmp_path_factory) -> Checkout:
    """A checkout in which the chain ran, with so much work for couple that it is met in the middle of it."""
    slow = tiny_chain.copy(tmp_path_factory.mktemp("slow") / "checkout")
    slow.set(couple={"round1": {"nfe": 64}})
    slow.repro("couple@round1")
    return slow


@pytest.fixture(scope="module")
def ran(finished, tmp_path_factory):
    """A checkout in which the chain ran, for all tests of a file."""
    return finished.copy(tmp_path_factory.mktemp("wrong") / "checkout")


@pytest.fixture
def settings(ran, tmp_path):
    """The same, its settings and data put back after each test; scratch is each test's own."""
    ran.environment["FEWSTEP_SCRATCH"] = str(tmp_path / "scratch")
    yield ran
    ran.sh("git checkout -q . && git clean -fdq")


@pytest.fixture
def project(settings):
    """The same, its outputs put back as well."""
    yield settings
    settings.sh("git checkout -q .")
    settings.sh("dvc checkout -q --force")
