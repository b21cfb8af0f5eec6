"""The memory that making pairs of 3x32x32 takes, for few of them and for many.

Run `python -m benchmarks.couple_memory [few] [many]` (4096 and 65536). Each number is made by a process of
its own, which tells the largest share of memory it had.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._coupling import MLP, couple, maker, teacher


def make(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = teacher(Path(folder) / "model", MLP, (3, 32, 32))
        couple(Path(folder), maker(model, nfe=2), pairs=pairs)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main(few: int, many: int) -> None:
    peaks = {}
    for pairs in (few, many):
        command = [sys.executable, "-m", "benchmarks.couple_memory", "make", str(pairs)]
        out = subprocess.check_output(command, text=True, env=os.environ | {"FEWSTEP_WORKERS": "1"})
        peaks[pairs] = int(out) / 1024
        print(f"{pairs:6} pairs  {peaks[pairs]:7.1f} MiB")
    print(f"ratio {peaks[many] / peaks[few]:.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(int(sys.argv[2]))
    else:
        main(*(map(int, sys.argv[1:]) if sys.argv[1:] else (4096, 65536)))
