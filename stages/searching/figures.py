"""What a search found, as pictures."""

from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import color_sequences

from stages.figures.curves import draw_grids
from stages.figures.figure import pyplot, save_figure

if TYPE_CHECKING:
    from fewstep.searching.jumps import Jumps
    from stages.searching.grids_file import SearchedGrids

DECADES = 6  # of costs that colours show
GREY = "#888888"


def draw_search(folder: Path, found: "SearchedGrids", jumps: "Jumps | None") -> None:
    """Draw grids.png, the grids found, and search.png: costs with the paths, step sizes, endpoint errors."""
    draw_grids(
        folder / "grids.png", [(f"{steps} steps", grid.times) for steps, grid in sorted(found.grids.items())]
    )
    names = sorted({name for scores in found.scores.values() for name in scores} - {found.baseline})
    bright = [colour for n, colour in enumerate(color_sequences["tab10"]) if n != 7]  # 7 is grey
    colours = {found.baseline: GREY} | dict(zip(names, cycle(bright), strict=False))
    panels = 3 if jumps is not None else 2
    figure, axes = pyplot.subplots(1, panels, figsize=(4.3 * panels, 4.4))
    if jumps is not None:
        draw_costs(axes[0], found, jumps)
    draw_steps(axes[-2], found, colours)
    draw_errors(axes[-1], found, colours)
    figure.legend(
        *axes[-1].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=6, loc="lower center"
    )
    figure.tight_layout(pad=0.6, rect=(0, 0.05 + 0.04 * (len(colours) > 6), 1, 1))
    save_figure(figure, folder / "search.png")


def draw_costs(axis: Any, found: "SearchedGrids", jumps: "Jumps") -> None:
    """Draw the cost of every jump, from across and to upwards, and the cheapest paths that were found."""
    timesteps, costs = np.asarray(jumps.fine.times), jumps.costs.T
    shown = np.ma.masked_where(~np.isfinite(costs) | (costs <= 0), costs)
    top = float(np.log10(shown.max())) if shown.count() else 0.0
    edges = np.concatenate([[timesteps[0]], (timesteps[1:] + timesteps[:-1]) / 2, [timesteps[-1]]])
    mesh = axis.pcolormesh(edges, edges, np.ma.log10(shown), cmap="Blues", vmin=top - DECADES, vmax=top)
    axis.figure.colorbar(mesh, ax=axis, label=f"log10 of the {jumps.cost} cost", fraction=0.046)
    for number, steps in enumerate(sorted(found.candidates)):
        paths = [times for times in found.candidates[steps].values() if set(times) <= set(jumps.fine.times)]
        if steps > 1 and paths:
            times = min(paths, key=lambda times: total_cost(times, jumps))
            label, colour = f"{steps} steps", pyplot.get_cmap("autumn")(number / len(found.candidates))
            axis.step(times, [*times[1:], 1.0], where="post", color=colour, linewidth=1.3, label=label)
    axis.plot([timesteps[0], 1], [timesteps[0], 1], color=GREY, linewidth=0.6)
    axis.set(xlabel="jump from t", ylabel="to t", aspect="equal", title="What a jump costs")
    if axis.get_legend_handles_labels()[0]:  # none of a single step
        axis.legend(fontsize=8, frameon=False, loc="lower right")


def total_cost(times: Sequence[float], jumps: "Jumps") -> float:
    """Return what the jumps along some of the fine timesteps cost together."""
    at = [jumps.fine.times.index(t) for t in times]
    return sum(float(jumps.costs[j, k]) for j, k in pairwise(at))


def draw_steps(axis: Any, found: "SearchedGrids", colours: dict[str, Any]) -> None:
    """Draw the step sizes of every search at the budget in the middle."""
    budgets = sorted(steps for steps in found.candidates if steps > 1) or sorted(found.candidates)
    steps = budgets[len(budgets) // 2]
    for name, times in sorted(found.candidates[steps].items()):
        ours = name == found.method["name"]
        axis.stairs(
            np.diff(times),
            times,
            baseline=None,
            color=colours[name],
            linewidth=2.6 if ours else 1.2,
            zorder=3 if ours else 2,
        )
    axis.set(xlabel="t (0 noise, 1 data)", ylabel="step size", title=f"{steps} steps, by search")
    axis.set_ylim(bottom=0)


def draw_errors(axis: Any, found: "SearchedGrids", colours: dict[str, Any]) -> None:
    """Draw the endpoint RMSE of every search by the number of steps, with 95 % intervals."""
    budgets = sorted(found.scores)
    for number, name in enumerate(colours):
        scores = [found.scores[steps][name] for steps in budgets]
        means = np.array([score["rmse"] for score in scores])
        low = means - [score["rmse_low"] for score in scores]
        high = [score["rmse_high"] for score in scores] - means
        ours = name == found.method["name"]
        axis.errorbar(
            np.array(budgets)
            * 1.015 ** (number - len(colours) / 2),  # side by side, not on top of each other
            means,
            [low, high],
            label=name,
            color=colours[name],
            marker="o",
            markersize=3.5,
            capsize=2,
            linewidth=2.2 if ours else 1.0,
            zorder=3 if ours else 2,
        )
    axis.set_xscale("log", base=2)
    if max(score["rmse"] for scores in found.scores.values() for score in scores.values()) > 0:
        axis.set_yscale("log", nonpositive="clip")
    axis.set_xticks(budgets, [str(steps) for steps in budgets])
    axis.set(xlabel="steps", ylabel="endpoint RMSE", title="Distance from a fine run")
    axis.grid(True, which="major", color="#eeeeee")
    axis.set_axisbelow(True)
