"""A DVC project of four tiny stages, whose conduct a test can order."""

import os
import subprocess
from pathlib import Path

import preloaded
from workspace import CHECKOUT

DVC_YAML = """
stages:
  first:
    cmd: python work.py first artifacts/first
    deps: [data]
    params: [seed, first, {work.py: [VERSION]}]
    outs: [artifacts/first]
  middle:
    foreach: ${middle}
    do:
      cmd: python work.py middle@${key} artifacts/middle/${key}
      deps: [artifacts/first]
      params: ["middle.${key}"]
      outs: ["artifacts/middle/${key}"]
  last:
    cmd: python work.py last artifacts/last
    deps: [artifacts/middle]
    params: [last]
    outs: [artifacts/last]
"""

PARAMS = """
seed: 0
first: {train: {steps: 5, rate: 0.1}}
middle: {left: {width: 1}, right: {width: 2}}
last: {width: 3}
"""

# A stage does as the file `orders/<stage>` says, and otherwise writes params.yaml into its output.
WORK = """
import json, os, pathlib, shutil, signal, sys, time

VERSION = 1

def met(others):
    pathlib.Path(f"here-{name}").touch()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if all(pathlib.Path(f"here-{other}").exists() for other in others):
            return True
        time.sleep(0.02)

def write_outcome(outcome, message):
    if file := os.environ.get("FEWSTEP_OUTCOME_FILE"):
        text = json.dumps({"stage": name, "outcome": outcome, "message": message})
        pathlib.Path(file).write_text(text)

def write_progress(done, total, seconds_left):
    if file := os.environ.get("FEWSTEP_PROGRESS_FILE"):
        record = {"stage": name, "label": "", "unit": "step", "done": done, "total": total}
        record |= {"seconds_left": seconds_left, "values": {}}
        with open(file, "a") as lines:
            print(json.dumps(record), file=lines)

name, out = sys.argv[1:]
with open("began", "a") as file:
    print(name, os.environ.get("FEWSTEP_PIPELINE"), file=file)
print(f"{name}: at work")
order = pathlib.Path("orders", name)
todo = order.read_text().split() if order.exists() else [""]
if todo[0] == "refuse":
    write_outcome("mistake", "the setting is wrong;\\nmend it")
    sys.exit(f"{name}: the setting is wrong;\\nmend it")
if todo[0] == "fail":  # as a stage that writes no outcome
    sys.exit("it does not work")
if todo[0] == "crash":
    write_outcome("crash", "a bug")
    raise RuntimeError("a bug")
if todo[0] == "die-once":
    order.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
if todo[0] == "sleep":
    time.sleep(600)
if todo[0] == "meet" and not met(todo[1:]):
    sys.exit(f"{name}: nobody came")
pathlib.Path(out).mkdir(parents=True)
shutil.copy("params.yaml", out)
"""


class Toy:
    """A DVC project of four tiny stages: first, then middle@left and middle@right, then last."""

    stages = ("first", "middle@left", "middle@right", "last")

    def __init__(self, root: Path) -> None:
        self.root = root

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        (self.root / name).write_text(text.replace(old, new))

    def order(self, stage: str, what: str) -> None:
        (self.root / "orders").mkdir(exist_ok=True)
        (self.root / "orders" / stage).write_text(what)

    def began(self) -> list[str]:
        """Return the stages that began to run, in order, and forget them."""
        file = self.root / "began"
        names = [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
        file.unlink(missing_ok=True)
        return names

    def sh(self, command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        if ended := preloaded.run(command, self.root, environment, seconds=300):
            status, said = ended
            assert status == 0, said
            return said
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
