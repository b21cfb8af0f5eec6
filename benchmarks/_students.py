"""The whole chain with other settings, and what came of its students."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.workspaces.variant import Variant

STRAIGHT: dict[str, Any] = {
    "method": "straighten",
    "init": "base",
    "teacher": "base",
    "train_on": "trajectories/base",
    "nfe": 4,
    "train": {
        "steps": 200,
        "batch": 64,
        "learning_rate": 5.0e-4,
        "warmup": 20,
        "decay": "cosine",
        "ema": 0.99,
    },
}
"""Settings of a student that is straightened on the searched grid."""


def run_chain(overrides: dict[str, Any]) -> Path:
    """Run the chain in a variant, and return the folder of its artifacts; a failed run raises."""
    words = [w for name, value in overrides.items() for w in ("--set", f"{name}={json.dumps(value)}")]
    subprocess.run([sys.executable, "-m", "fewstep", "run", *words], check=True)
    return Variant.of(Path(), overrides).folder / "artifacts"


def print_students(artifacts: Path) -> None:
    """Print each student's distance over the converged teacher's, and whether its training had to go back."""
    found = json.loads((artifacts / "evaluate" / "metrics.json").read_text())
    print(*found["fine_runs"], sep="\n")
    print("| student | over the teacher | spread | recall | outside | went back |")
    print("|---|---|---|---|---|---|")
    for row in found["rows"]:
        if row["student"]:
            manifest = json.loads((artifacts / "models" / row["model"] / "manifest.json").read_text())
            monitor = manifest["facts"].get("monitor", {})
            print(
                f"| {row['name']} | {row['fd_over_teacher']:.2f} ± {row['fd_over_teacher_se']:.2f} "
                f"| {row['fd_over_teacher_spread']:.2f} | {row['recall']:.2f} | {row['outside']:.3f} "
                f"| {monitor.get('retreats', '-')} |"
            )
