"""What stages would take: each measures it in its own process, so that nothing here imports torch."""

import os
import subprocess
import sys

from fewstep.errors import UserError
from stages.settings import checks, discovery, messages


def measure(stage: str, price: float | None) -> None:
    """Become the process of a stage that measures what it takes.

    Raises:
        UserError: There is no such stage, or it neither makes samples nor trains.
    """
    name, _, key = stage.partition("@")
    able = [other for other in discovery.names() if hasattr(discovery.load(other), "plan")]
    if name not in able:
        raise UserError(f"{name} is no stage that makes samples or trains; {messages.suggest(name, able)}")
    priced = [] if price is None else [f"--price={price}"]  # one word: -inf alone would be an option
    os.execv(sys.executable, planning(name, key) + priced)


def measure_trainings() -> None:
    """Have each training measure the memory that it takes; one whose inputs are not there says so."""
    params = checks.read_checked()
    for stage in discovery.names():
        if "train" in discovery.load(stage).Config.model_fields:
            for key in params.keys(stage):
                subprocess.run(planning(stage, key))


def planning(stage: str, key: str | None) -> list[str]:
    """Return the command of a stage that tells what it takes."""
    return [sys.executable, "-m", f"stages.{stage}", *filter(None, [key]), "--plan"]
