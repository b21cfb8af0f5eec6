"""An interpreter without the locked packages is told so before anything else, and fast."""

import ctypes
import os
import re
import subprocess
import sys

import pytest
from fake_project import Project

from stages.process import environment


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


def test_missing_and_different_packages_are_named_with_the_remedy(project):
    project.write("requirements.lock", "# comment\nnumpy==0.0.1\nnot-needed==1\npyyaml==6.0.0  # why\n")
    said = project.sh("python -m stages.make", ok=False)
    assert re.search(r"numpy is \S+, needs 0.0.1; PyYAML is \S+, needs 6.0.0\.", said)
    assert "`make run` creates .venv with them; or put .venv/bin first on PATH" in said
    assert "Traceback" not in said


def test_a_bare_interpreter_is_refused_with_what_is_missing(project):
    project.write("requirements.lock", "torch==2.13.0\n")
    said = project.sh("python -S -m stages.make", ok=False)
    assert "torch is missing, needs 2.13.0" in said


def test_a_local_suffix_is_no_difference(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==2.13.0\n")
    monkeypatch.setattr(environment, "version", lambda name: "2.13.0+cu130")
    assert environment.mismatches(lock) == []


def test_the_check_imports_none_of_what_it_checks():
    code = "import sys, stages; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "stages.process.environment" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "yaml", "tqdm", "filelock", "webdataset"}


def test_threads_come_from_the_environment(project):
    show = "python -c 'import stages, os; print(os.environ[\"OMP_NUM_THREADS\"])'"
    assert project.sh(f"OMP_NUM_THREADS=7 {show}") == "1\n"
    assert project.sh(f"FEWSTEP_THREADS=2 {show}") == "2\n"
    assert "must be a number of threads from 1, got 'many'" in project.sh(
        f"FEWSTEP_THREADS=many {show}", ok=False
    )


KEPT = """
import ctypes, sys

libc = ctypes.CDLL(None)
libc.mallopt(-1, 2**17), libc.mallopt(-3, 2**17)  # a new process's thresholds, whatever imports made of them
if sys.argv[1:]:
    import stages

class Heap(ctypes.Structure):  # glibc's struct mallinfo2
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Heap
before = libc.mallinfo2().fordblks
blocks = [ctypes.c_void_p() for _ in range(256)]
for block in blocks:
    assert libc.posix_memalign(ctypes.byref(block), 64, 2**20) == 0  # as torch allocates
for block in blocks:
    libc.free(block)
print(libc.mallinfo2().fordblks - before)
"""


def bytes_kept(*stage):
    """Return how many of 256 MiB that were freed the C library keeps, in a stage or outside."""
    drop = ("MALLOC", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not any(d in name for d in drop)}
    found = subprocess.run(
        [sys.executable, "-c", KEPT, *stage], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc from 2.33"
)
def test_a_stage_keeps_memory_that_is_freed():
    assert bytes_kept("stage") > 240 * 2**20
    assert bytes_kept() < 16 * 2**20
