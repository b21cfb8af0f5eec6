"""Every stage breaks once in a second clone, is mended and resumed by the command that it has printed."""

import re

import preloaded
from chain.checkout import Checkout

BREAK = """

_run = run


def run(config, job):
    import errno
    from pathlib import Path

    if Path("broken", job.result.partition(".")[0]).exists():
        raise OSError(errno.ENOSPC, "No space left on device", str(job.out / "first"))
    _run(config, job)
"""


def manifests(checkout, stages) -> dict[str, tuple[int, int]]:
    """Return which file each stage's manifest is, and from when."""
    locked = checkout.locked()
    files = {name: checkout / locked[name]["outs"][0]["path"] / "manifest.json" for name in stages}
    return {name: (file.stat().st_ino, file.stat().st_mtime_ns) for name, file in files.items()}


def test_after_a_full_disk_each_stage_resumes_and_no_upstream_stage_runs(finished, tmp_path, prefect_api):
    """It breaks on a full disk; where one is met in the middle of the work is in test_stops.py.

    In the end both clones are equal, although one used `dvc repro` and one worker, the other flows and two.
    """
    finished.sh(f"git clone -q . {tmp_path / 'second'}")
    checkout = Checkout(tmp_path / "second")
    (checkout / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    checkout.environment |= {"FEWSTEP_WORKERS": "2", "PYTHONPATH": preloaded.BEGUN}
    everything = finished.locked().keys()
    assert len(everything) == 12
    for name in everything:
        checkout.sh(f"mkdir -p broken && touch broken/{name}")
    for module in {name.partition("@")[0] for name in everything}:
        file = checkout / f"stages/{module}.py"
        file.write_text(file.read_text() + BREAK)

    command, mended, broke = "fewstep run", set(), []
    while list((checkout / "broken").iterdir()):
        done = set(checkout.locked()) if broke else set()
        before = manifests(checkout, done)
        said = checkout.sh(command, ok=False, PREFECT_API_URL=prefect_api)
        failed = set(re.findall(r"^(\S+): the disk of .* is full", said, re.M))
        assert failed, said
        assert set(re.findall(r"Running stage '(.+)':", said)) == failed | mended
        assert manifests(checkout, done) == before
        broke += failed
        for name in failed:
            (checkout / "broken" / name).unlink()
        (command,) = re.findall(r"^    (fewstep run.*)$", said, re.M)
        mended = failed
    assert sorted(broke) == sorted(everything)

    before = manifests(checkout, set(everything) - mended)
    last = checkout.sh(command, PREFECT_API_URL=prefect_api)
    assert set(re.findall(r"Running stage '(.+)':", last)) == mended
    assert manifests(checkout, before) == before
    assert checkout.files("artifacts") == finished.files("artifacts")
    assert checkout.locked() == finished.locked()
    (checkout / "dvc.lock").unlink()  # in which flows put stages as they end
    assert checkout.repro().ran == []  # its cache has everything
    assert (checkout / "dvc.lock").read_bytes() == (finished / "dvc.lock").read_bytes()
