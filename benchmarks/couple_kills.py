"""Kills without warning while pairs are made, of a worker, the driver or everything, and what is left then.

Run `python -m benchmarks.couple_kills [kills]` (50), spread over the three back ends and both numbers of
workers. Each coupling is killed at random moments, resumed by another back end or number of workers,
until it is whole; its bytes must be those of a coupling that nobody disturbed.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks._coupling import UNET, couple, maker, teacher

PAIRS, PER_SHARD, NFES = 2048, 128, 64
WAYS = {
    "in process": {"FEWSTEP_WORKERS": "1"},
    "processes": {"FEWSTEP_WORKERS": "2"},
    "ray": {"FEWSTEP_WORKERS": "2", "FEWSTEP_BACKEND": "ray"},
}
VICTIMS = ("worker", "driver", "everything")


def work(folder: Path, model: Path) -> None:
    couple(folder, maker(model, nfe=NFES, batch=64), pairs=PAIRS, per_shard=PER_SHARD)


def start(folder: Path, model: Path, way: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.couple_kills", "work", str(folder), str(model)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEWSTEP_")}
    return subprocess.Popen(
        command, env=environment | WAYS[way], stdout=subprocess.DEVNULL, start_new_session=True
    )


def shards(folder: Path) -> int:
    return len(list(folder.glob("out/*/shard-*.tar")))


def workers(driver: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes that make pairs for a driver."""
    below = psutil.Process(driver.pid).children(recursive=True)
    return [
        process
        for process in below
        if any("ray::Actor" in part or "spawn_main" in part for part in process.cmdline())
    ]


def strike(driver: subprocess.Popen, victim: str, chance: random.Random) -> str | None:
    """Kill, and return who died; None if there was nobody to kill."""
    try:
        if victim == "worker":
            chance.choice(workers(driver)).kill()
        elif victim == "driver":
            driver.kill()
        else:
            os.killpg(driver.pid, signal.SIGKILL)
    except (IndexError, psutil.Error, ProcessLookupError):
        return None
    return victim


def digest(folder: Path) -> str:
    files = sorted(folder.glob("out/*/[!.]*"))
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def main(kills: int) -> None:
    chance = random.Random(0)
    struck = {
        (way, victim): 0 for way in WAYS for victim in VICTIMS if (way, victim) != ("in process", "worker")
    }
    with tempfile.TemporaryDirectory() as place:
        model = teacher(Path(place) / "model", UNET, (1, 8, 8))
        undisturbed = Path(place) / "undisturbed"
        assert start(undisturbed, model, "in process").wait() == 0
        whole, couplings = digest(undisturbed), 0
        while sum(struck.values()) < kills:
            couplings += 1
            folder = Path(place) / f"coupling-{couplings}"
            while True:
                # what was struck least is struck next
                way, victim = min(struck, key=lambda pair: (struck[pair], chance.random()))
                driver, there = start(folder, model, way), shards(folder)
                while driver.poll() is None and shards(folder) < there + 1 + chance.randrange(3):
                    time.sleep(0.01)
                time.sleep(chance.random() * 0.2)
                if driver.poll() is None and strike(driver, victim, chance):
                    struck[way, victim] += 1
                if driver.wait() == 0:
                    break
            same = digest(folder) == whole
            print(
                f"coupling {couplings}: {'the same bytes' if same else 'OTHER BYTES'} after "
                f"{sum(struck.values())} kills",
                flush=True,
            )
            assert same
    for (way, victim), times in struck.items():
        print(f"{way:10} {victim:10} {times:3} kills")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 50)
