"""How long `fewstep why` takes with many keys: before the first run, and when every stage is up to date.

Run `python -m benchmarks.why_keys [keys]` (200 keys of distill). It works in a temporary clone of this
checkout, where a small file stands in for each result: `fewstep why` compares digests and reads none.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

RUNS = 3
COMMAND = [sys.executable, "-m", "fewstep", "why"]


def give_keys(file: Path, keys: int) -> None:
    """Add students to params.yaml, each with a number of steps of its own."""
    yaml = YAML()
    params = yaml.load(file)
    model = dict(params["distill"]["boss-4"])
    for key in range(keys - len(params["distill"])):
        train = dict(model["train"]) | {"steps": 1 + key}
        params["distill"][f"student-{key}"] = model | {"train": train}
    yaml.dump(params, file)


def stand_in(folder: Path) -> None:
    """Give every stage of a clone a result, and DVC the record that it is the right one."""
    names = subprocess.check_output(["dvc", "stage", "list", "--name-only"], cwd=folder, text=True).split()
    places = {"prepare": "prepare", "nets": "nets", "evaluate": "evaluate"}
    for name in names:
        stage, _, key = name.partition("@")
        models = stage in ("pretrain", "adopt", "reflow", "distill")
        out = folder / "artifacts" / places.get(stage, f"models/{key}" if models else f"{stage}/{key}")
        out.mkdir(parents=True)
        (out / "result").write_text(name)
    subprocess.run(["dvc", "commit", "--force", "--quiet"], cwd=folder, check=True)


def seconds(folder: Path) -> float:
    """Return the median time of the command, after one run that fills DVC's own caches."""
    took = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(COMMAND, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return sorted(took[1:])[RUNS // 2]


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "clone")
        subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
        give_keys(folder / "params.yaml", keys)
        print(f"{keys} keys, no stage ever ran: {seconds(folder):.2f} s")
        stand_in(folder)
        print(f"{keys} keys, every stage up to date: {seconds(folder):.2f} s")
        told = subprocess.check_output(COMMAND, cwd=folder, text=True)
        print(told.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
