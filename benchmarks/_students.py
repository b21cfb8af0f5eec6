"""The whole chain with other settings, what came of its students, and claims that are compared by it."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
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


def compare(
    claims: Mapping[str, Callable[[], Any]], measured: Callable[[str, str, int], dict[str, str]]
) -> None:
    """Print what was measured of claims, a line for each thing compared, a column for each seed.

    The command line is [NAME [SOURCE [SEED ...]]]; all claims, digits, and seeds 0, 1 and 2.
    """
    asked = sys.argv[1:]
    source, seeds = (asked[1:] or ["digits"])[0], [int(seed) for seed in asked[2:]] or [0, 1, 2]
    for claim in asked[:1] or claims:
        if claim not in claims:
            sys.exit(f"unknown claim {claim!r}; there are: {', '.join(claims)}")
        by_seed = [measured(claim, source, seed) for seed in seeds]
        print(f"\n{claims[claim].__doc__} {source}, seeds {', '.join(map(str, seeds))}:")
        for name in by_seed[0]:
            print(name, *(found[name] for found in by_seed), sep="  ")


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
