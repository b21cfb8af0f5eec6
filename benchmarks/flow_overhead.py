"""What Prefect, DVC and tracking add to the stages' own work, on the demo.

Run `python -m benchmarks.flow_overhead` on a machine that does little else; it takes twice the demo. In a
clone of the last commit each stage's command runs bare, one after the other; in another one the flow runs
them, one at a time too, with a Prefect server that was there before. Then: a flow and a `dvc repro` with
nothing to do, and a stage from its start to the moment when its training would begin, against `import torch`.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from flows import CHECKOUT, _dvc, ui

ROUNDS = 5
START = """
import os
from stages import _runner, _training, distill

_training.train_model = lambda *_, **__: os._exit(0)
_runner.main(distill.__file__)
"""


def seconds(command: list[str], folder: Path, **environment: str) -> float:
    """Return how long a Python command takes."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", CHECKOUT, folder], check=True)
    return folder


def bare(root: Path) -> dict[str, float]:
    """Run each stage by its command, and return its seconds."""
    spent = {}
    for name in _dvc.read(root):
        stage, _, key = name.partition("@")
        spent[name] = seconds(["-m", f"stages.{stage}", *filter(None, [key])], root)
        print(f"{name}: {spent[name]:.1f} s", flush=True)
    return spent


def through_the_flow(root: Path, server: str) -> tuple[float, float, float]:
    """Return the seconds of a flow that makes everything, of one with nothing to do, of `dvc repro` then."""
    flow = {"FEWSTEP_STAGES_AT_ONCE": "1", "PREFECT_API_URL": server}
    whole = seconds(["-m", "flows.pipeline"], root, **flow)
    idle = [seconds(["-m", "flows.pipeline"], root, **flow) for _ in range(ROUNDS)]
    return whole, median(idle), median(seconds(["-m", "dvc", "repro"], root) for _ in range(ROUNDS))


def starts(root: Path, scratch: Path) -> tuple[float, float]:
    """Return the seconds of a stage until its training would begin, and of `import torch`, in turns."""
    stage, torch = [], []
    for turn in range(ROUNDS):
        place = str(scratch / str(turn))
        stage.append(seconds(["-c", START, "boss-4"], root, FEWSTEP_SCRATCH=place))
        torch.append(seconds(["-c", "import torch"], root))
    return median(stage), median(torch)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        server = next(server for server in ui.servers(top / "server") if server.name == "Prefect")
        port, log = ui.free_port(4200), top / "server.log"
        process = ui.start(server, port, log)
        try:
            ui.wait_until_ready(server, port, log, process)
            own = bare(clone(top / "bare"))
            whole, idle, repro = through_the_flow(clone(top / "flow"), f"http://{ui.HOST}:{port}/api")
        finally:
            ui.stop(process)
        stage, torch = starts(top / "bare", top / "scratch")
    total = sum(own.values())
    print(f"flow {whole:.1f} s, its stages bare {total:.1f} s: {whole / total:.3f} x")
    print(f"with nothing to do: flow {idle:.2f} s, dvc repro {repro:.2f} s")
    print(f"start of a stage {stage:.2f} s, import torch {torch:.2f} s: {stage / torch:.2f} x")


if __name__ == "__main__":
    main()
