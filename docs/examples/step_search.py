"""Search the steps of your callable.

You have a velocity function, and want the fewest steps that still give good samples. This example searches
timesteps for it, measures what the search gains, and draws a picture. It needs the library alone (and
matplotlib for the picture), and takes some ten seconds:

    python docs/examples/step_search.py
"""

# ## The velocity
#
# Any function `velocity(x, t)` will do: `x` is `(n, *shape)`, `t` is `(n,)` from 0 (noise) to 1 (data). Put
# your network here. This one is the exact flow to a mixture of six Gaussians in the plane, so that errors are
# those of the steps alone. With `x_t = (1 − t) · noise + t · data`, the velocity is `E[data | x_t] − E[noise
# | x_t]`, a mean over the six components, weighted by how probable each one is at `x_t`.

import torch

MEANS = torch.tensor([[-1.5, 0.3], [-0.6, -1.2], [0.2, 1.4], [0.9, -0.5], [1.6, 0.9], [-0.3, 0.1]])
SPREAD = 0.15


def velocity(x, t):
    t = t[:, None]
    variance = (1 - t) ** 2 + (t * SPREAD) ** 2
    off = x[:, None] - t[..., None] * MEANS
    weights = torch.softmax(-off.square().sum(-1) / (2 * variance), dim=1)[..., None]
    data = MEANS + (t * SPREAD**2 / variance)[..., None] * off
    noise = ((1 - t) / variance)[..., None] * off
    return (weights * (data - noise)).sum(1)


# ## The search
#
# A search needs noise of the sampler's kind, and the numbers of steps that you consider. Here are three:
# `bellman` (BOSS) looks at single jumps, `optimal_steps` at whole trajectories, `coordinate_descent` moves
# timesteps to where samples end nearest. `report` sets noise aside to score what was found; a search never
# sees it.

import fewstep

torch.manual_seed(0)
noise = torch.randn(2048, 2)
grids, errors = {}, {}
for method in ("bellman", "optimal_steps", "coordinate_descent"):
    found = fewstep.search(velocity, noise, budgets=[2, 4, 8], method=method, report=1024)
    for steps, grid in found.items():
        grids[method, steps] = grid
        errors[method, steps] = found.scores[steps][method].rmse
        errors["uniform", steps] = found.scores[steps]["uniform"].rmse

# ## What did it gain?
#
# The error is the root mean square distance between where a few steps end and where a fine run ends, from the
# same noise.

print(f"{'search':20}" + "".join(f"{steps:>9} steps" for steps in (2, 4, 8)))
for method in ("uniform", "bellman", "optimal_steps", "coordinate_descent"):
    print(f"{method:20}" + "".join(f"{errors[method, steps]:15.3f}" for steps in (2, 4, 8)))

# ```text
# search                      2 steps        4 steps        8 steps
# uniform                       0.467          0.278          0.167
# bellman                       0.458          0.256          0.176
# optimal_steps                 0.447          0.247          0.147
# coordinate_descent            0.457          0.252          0.144
# ```
#
# The default method, `best`, tries all searches and keeps the winner only if fresh noise agrees. It takes
# longer and needs more noise. [Choose a search](../choose-a-search.md) compares them all.
#
# ## Use the grid
#
# A grid is plain JSON. `integrate` takes its steps, and reports the NFE: the network calls for a sample.

from pathlib import Path

from fewstep.flow import FieldFlow
from fewstep.grids import Grid, uniform
from fewstep.solvers import integrate, trajectory

Path("grid-4.json").write_text(grids["optimal_steps", 4].to_json())
grid = Grid.from_json(Path("grid-4.json").read_text())
samples = integrate(FieldFlow(velocity), noise, grid)
print(f"{len(samples.x)} samples in {samples.nfe} NFE, timesteps {[round(t, 3) for t in grid.times]}")

# ## A picture
#
# Fine trajectories in grey, and the ends of four Euler steps: on equal times, and on the searched ones.
#
# ![Trajectories, and the ends of 4 Euler steps on equal and on searched times](../pictures/step_search.png)

import matplotlib.pyplot as plt

flow = FieldFlow(velocity)
paths = torch.stack(list(trajectory(flow, noise[:60], uniform(64, solver="heun"))), dim=1)
figure, panels = plt.subplots(1, 2, figsize=(9, 4.4), sharex=True, sharey=True, layout="constrained")
truth = integrate(flow, noise, uniform(64, solver="heun")).x
shown = {"4 equal steps": uniform(4), "4 searched steps": grid}
for panel, (title, times) in zip(panels, shown.items(), strict=True):
    ends = integrate(flow, noise, times).x
    panel.plot(*paths.permute(2, 1, 0), color="0.8", linewidth=0.7, zorder=1)
    panel.scatter(*ends[:800].T, s=5, color="tab:orange", zorder=2)
    panel.scatter(*MEANS.T, marker="+", s=90, color="black", zorder=3)
    error = (ends - truth).square().mean().sqrt()
    panel.set(title=f"{title}: RMSE {error:.3f}", xticks=[], yticks=[], xlim=(-2.4, 2.4), ylim=(-2.2, 2.2))
figure.savefig("step_search.png", dpi=110)
