"""What Prefect, DVC and tracking add to the stages' own work, on the demo.

Run `python -m benchmarks.flow_overhead` on a machine of two cores that does little else; it takes as long as
the demo on one. In a clone of the last commit each stage's command runs bare, one after the other, on one
core; at the same time, in another clone and on the other core, the flow runs them, one at a time too, with
the Prefect server and whatever else it starts on that core. Then: a flow (on both cores) and a `dvc repro`
with nothing to do, and a stage from its start to the moment when its training would begin, against
`import torch`.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from flows import CHECKOUT
from flows.dvc import repo
from flows.server import login, programs

ROUNDS = 5
ALONE = {"FEWSTEP_WORKERS": "1", "FEWSTEP_STAGES_AT_ONCE": "1"}
START = """
import os
from stages import distill
from stages.run import runner
from stages.training import training

training.train_model = lambda *_, **__: os._exit(0)
runner.main(distill.__file__)
"""


def seconds(command: list[str], folder: Path, cores: str, **environment: str) -> float:
    """Return how long a Python command takes on one core, or on both: "0", "1" or "0,1"."""
    began = time.perf_counter()
    subprocess.run(
        ["taskset", "--cpu-list", cores, sys.executable, *command],
        cwd=folder,
        env=os.environ | ALONE | environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", CHECKOUT, folder], check=True)
    return folder


def bare(root: Path) -> dict[str, float]:
    """Run each stage by its command on core 0, and return its seconds."""
    spent = {}
    for name in repo.read(root):
        stage, _, key = name.partition("@")
        spent[name] = seconds(["-m", f"stages.{stage}", *filter(None, [key])], root, "0")
        print(f"{name}: {spent[name]:.1f} s", flush=True)
    return spent


def starts(root: Path, scratch: Path) -> tuple[float, float]:
    """Return the seconds of a stage until its training would begin, and of `import torch`, in turns."""
    stage, torch = [], []
    for turn in range(ROUNDS):
        place = str(scratch / str(turn))
        stage.append(seconds(["-c", START, "boss-4"], root, "0", FEWSTEP_SCRATCH=place))
        torch.append(seconds(["-c", "import torch"], root, "0"))
    return median(stage), median(torch)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        server = programs.prefect(top / "server")
        port, log = programs.free_port(4200), top / "server.log"
        process = programs.start(server, port, log)
        os.sched_setaffinity(process.pid, {1})
        flow = ["-m", "fewstep", "run"]
        address = {
            "PREFECT_API_URL": f"http://{programs.HOST}:{port}/api",
            login.CLIENT: login.login(top / "server"),
        }
        try:
            programs.wait_until_ready(server, port, log, process)
            with ThreadPoolExecutor() as pool:
                own = pool.submit(bare, clone(top / "bare"))
                whole = pool.submit(seconds, flow, clone(top / "flow"), "1", **address)
            total = sum(own.result().values())
            print(
                f"flow {whole.result():.1f} s, its stages bare {total:.1f} s: {whole.result() / total:.3f} x"
            )
            idle = median(seconds(flow, top / "flow", "0,1", **address) for _ in range(ROUNDS))
        finally:
            programs.stop(process)
        repro = median(seconds(["-m", "dvc", "repro"], top / "flow", "0") for _ in range(ROUNDS))
        print(f"with nothing to do: flow {idle:.2f} s, dvc repro {repro:.2f} s")
        stage, torch = starts(top / "bare", top / "scratch")
        print(f"start of a stage {stage:.2f} s, import torch {torch:.2f} s: {stage / torch:.2f} x")


if __name__ == "__main__":
    main()
