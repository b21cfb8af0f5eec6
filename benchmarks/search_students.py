"""What the grid of a search does to samples: of the model itself, and of students straightened on it.

Run `python -m benchmarks.search_students` in a checkout; some minutes for each search, and more for `best`.
Each search runs in a variant of the chain without reflow or on-policy distillation, and the table has the
distance to the data over the converged teacher's, with paired errors, at 2, 4 and 8 steps.
"""

import json
from typing import Any

from benchmarks._students import STRAIGHT, run_chain

BUDGETS = (2, 4, 8)
SEARCHES: dict[str, Any] = {
    "uniform": {"name": "uniform"},
    "bellman": {"name": "bellman", "fine_steps": 32, "fine_solver": "heun"},
    "best": {"name": "best"},
    "bellman, but Euler trajectories": {"name": "bellman", "fine_steps": 32, "fine_solver": "euler"},
}


def overrides(search: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a chain that ends with students straightened on the grids of a search."""
    longer = STRAIGHT | {"train": STRAIGHT["train"] | {"steps": 300}}
    students = {f"straight-{nfe}": longer | {"nfe": nfe} for nfe in BUDGETS}
    trajectories = {"base": {"samples": 3000}}  # by the solver of the search
    changed = {"couple": {}, "reflow": {}, "distill": students, "search.base.method": search}
    changed |= {"trajectories": trajectories}
    return changed | {"search.base.report_noises": 4096, "evaluate.nfe": list(BUDGETS)}


def main() -> None:
    """Run the chains and print the table."""
    print("| grid |", *(f"{nfe} steps |" for nfe in BUDGETS), *(f"{nfe}, straightened |" for nfe in BUDGETS))
    print("|---" * (1 + 2 * len(BUDGETS)) + "|")
    for name, search in SEARCHES.items():
        found = json.loads((run_chain(overrides(search)) / "evaluate" / "metrics.json").read_text())
        rows = {row["name"]: row for row in found["rows"]}
        kind = search["name"]
        cells = []
        for asked in ("base", "straight"):
            for nfe in BUDGETS:
                own = f"straight-{nfe}@{nfe}" if asked == "straight" else f"base@{nfe}/{kind}"
                row = rows[own] if own in rows else rows[f"base@{nfe}"]
                cells.append(f"{row['fd_over_teacher']:.2f} ± {row['fd_over_teacher_se']:.2f} |")
        print(f"| {name} |", *cells, flush=True)


if __name__ == "__main__":
    main()
