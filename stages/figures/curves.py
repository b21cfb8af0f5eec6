"""Pictures of numbers: quality against NFE, and where the steps of grids lie."""

from pathlib import Path
from typing import Any

from stages.evaluation import kinds
from stages.figures.figure import pyplot, save_figure

FAINT = "#bbbbbb"


def draw_grids(path: Path, grids: list[tuple[str, tuple[float, ...]]]) -> None:
    """Draw a line with a mark at every time for each named grid; equal steps are the ticks below."""
    figure, axis = pyplot.subplots(figsize=(6.4, 0.5 + 0.34 * len(grids)))
    for height, (_, times) in enumerate(reversed(grids)):
        axis.plot(times, [height] * len(times), "-", color=FAINT, linewidth=1, zorder=1)
        axis.plot(times, [height] * len(times), "o", color="#0b6e99", markersize=5, zorder=2)
    axis.set_yticks(range(len(grids)), [name for name, _ in reversed(grids)], fontsize=9)
    axis.set_xlabel("t (0 noise, 1 data)", fontsize=9)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(grids) - 0.4))
    axis.tick_params(labelsize=9)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.tight_layout(pad=0.4)
    save_figure(figure, path)


def draw_quality(path: Path, lines: dict[str, list[dict[str, Any]]]) -> None:
    """Draw fd_over_teacher against NFE, both on log scales, a line for each series.

    Bars are what the noise and the choice of nets leave open: the larger of standard error and spread.
    """
    figure, axis = pyplot.subplots(figsize=(6.4, 4.2))
    students = [name for name, rows in lines.items() if rows[0]["grid"] == kinds.OWN]
    for number, (name, rows) in enumerate(lines.items()):
        alone, searched = name in students, rows[0]["grid"] not in (kinds.OWN, kinds.EQUAL)
        axis.errorbar(
            [row["nfe"] for row in rows],
            [row["fd_over_teacher"] for row in rows],
            [max(row["fd_over_teacher_se"], row["fd_over_teacher_spread"]) for row in rows],
            label=name,
            color=f"C{number}",
            marker="D" if alone else "o",
            markersize=8 if alone else 4,
            linestyle="none" if alone else "--" if searched else "-",
            linewidth=1.3,
            capsize=2,
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    nfe = sorted({row["nfe"] for rows in lines.values() for row in rows})
    axis.set_xticks(nfe, [str(n) for n in nfe])
    axis.axhline(1, color=FAINT, linewidth=1, zorder=0)
    axis.set(xlabel="NFE", ylabel="distance over the teacher's")
    axis.grid(True, which="major", color="#eeeeee")
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False)
    figure.tight_layout(pad=0.4)
    save_figure(figure, path)
