"""One environment for all tests; servers and a tiny chain that really ran, for all who need them."""

import atexit
import gc
import os
import resource
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import preloaded
import pytest
import s3
from chain.checkout import Checkout
from filelock import FileLock
from processes import awake

# To look for garbage among all that tests import takes as long as to import it.
gc.disable()

# What whoever runs the tests has set decides nothing: no test module is imported yet, and xdist's workers
# and all that tests start inherit this. GIT_DIR, for one, would lead git from a toy project to another.
FOREIGN = ("AWS_", "DVC_", "FEWSTEP_", "GIT_", "HF_", "MLFLOW_", "PREFECT_", "RAY_", "TTY_")
FOREIGN += ("COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR")
for name in os.environ.keys() - {"FEWSTEP_RECORD_GOLDEN"}:
    if name.startswith(FOREIGN):
        del os.environ[name]
os.environ |= {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # to `python` and `dvc`
    "SHELL": "/bin/sh",  # DVC runs commands through it, and it may be one that runs none
    "OMP_NUM_THREADS": "1",  # more of them on shared cores are several times slower
    "FEWSTEP_DEVICE": "cpu",  # on which bytes and recorded numbers are equal
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_HOME": tempfile.mkdtemp(prefix="fewstep-prefect-"),  # which is read when prefect is imported
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    **dict.fromkeys(("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"), "fewstep:only-for-tests"),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "only-for-tests-and-not-left-in-the-home-folder",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "t@example.com" for who in ("AUTHOR", "COMMITTER")},
}
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" not in os.environ:
    preloaded.start()


# Files that share what takes seconds to make or to import: one process runs all of a group.
GROUPS = {
    "tests/flows/test_pools.py": "flows",
    "tests/flows/test_recover.py": "flows",
    "tests/flows/test_sweep.py": "flows",
    "tests/flows/test_artifacts.py": "flows",
    "tests/flows/test_door.py": "flows",
    "tests/flows/test_outages.py": "flows",
    "tests/flows/test_pages_in_a_browser.py": "flows",
    "tests/flows/test_pipeline.py": "flows",
    "tests/flows/test_run.py": "flows",
    "tests/chain/test_breaks.py": "chains under Prefect",
    "tests/chain/test_cancel.py": "chains under Prefect",
    "tests/chain/test_kills.py": "killed chains",
    "tests/chain/test_shared_shards.py": "killed chains",
    "tests/foreign/test_diffusers.py": "diffusers",
    "tests/foreign/test_dit.py": "diffusers",
    "tests/foreign/test_survey.py": "diffusers",
    "tests/foreign/test_text.py": "diffusers",
    "tests/infra/test_chain_on_workers.py": "infra",
    "tests/infra/test_servers.py": "infra",
    "tests/stages/test_tracking.py": "mlflow",
    "tests/stages/test_registry.py": "mlflow",
    "tests/test_distributed.py": "forked",
    "tests/test_resume.py": "forked",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no process is left with it at the end."""
    turns = {"infra": 0, "flows": 1, "chain": 2}
    items.sort(key=lambda item: turns.get(item.path.parent.name, 3))


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not among what stays to the end."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the groups, and other files one by one, to the processes of a run.

    `--dist loadgroup` would do that, but xdist 3.8 can't name groups to pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return GROUPS.get(file, file)

    return Groups(config, log)


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory) -> Checkout:
    """A clone in which the whole chain ran."""
    folder = shared(tmp_path_factory)
    clone = Checkout(folder / "finished")
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            origin = Checkout.create(folder / "origin")
            origin.sh(f"git clone -q . {clone.folder}")
            clone.repro()
            clone.sh("git add dvc.lock && git commit -qm ran")
            (folder / "done").touch()
    return clone


@pytest.fixture(scope="session")
def finished(tiny_chain) -> Checkout:
    """The clone in which the chain ran; to look at, not to touch. Tests of kills have one with more to do."""
    return tiny_chain


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


@pytest.fixture(scope="session")
def s3_address():
    """The address of an S3 server."""
    with s3.server() as address:
        yield address


@pytest.fixture
def bucket(s3_address, monkeypatch) -> str:
    """The URL of an empty bucket; the environment gives access to it."""
    s3.use(monkeypatch, s3_address)
    return s3.make_bucket(s3_address, f"bucket-{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """A real Prefect server."""
    from outages import Program  # imports prefect, which few tests need

    with Program("Prefect", tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def prefect_api(prefect_server):
    """The address of a real Prefect server, which rests while no file of tests needs it."""
    with awake(prefect_server.process.pid):
        yield f"{prefect_server.address}/api"


@pytest.fixture
def begun(monkeypatch):
    """Let processes that are started here begin with libraries loaded."""
    monkeypatch.setenv("PYTHONPATH", preloaded.BEGUN, prepend=os.pathsep)


@pytest.fixture
def room():
    """Return a function that lets no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def time(monkeypatch):
    """A clock that tests move."""

    class Time:
        now = 100.0

    monkeypatch.setattr("time.monotonic", lambda: Time.now)
    return Time
