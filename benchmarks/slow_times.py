"""What slower features of the time do to a trained model: its loss, its samples, and derivatives by the time.

Run `python -m benchmarks.slow_times [ARTIFACTS [KEY]]` beside the artifacts of a run: artifacts/, and the
model `base` there. The features of its network turn by up to 1000 radians per unit of time; `with_slow_times`
fits slower ones to them, by default of 100 radians (fewstep/networks/embedding.py).
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from fewstep import grids, paths, randomness
from fewstep.checkpoint import load_model
from fewstep.derivatives import along_flow
from fewstep.draws import draws_of
from fewstep.flow import ModelFlow, as_flow
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import Model
from fewstep.networks import embedding
from fewstep.shards import Shards
from fewstep.solvers import integrate
from fewstep.timing import with_slow_times

NOISES, FINE, FEW = 64, 256, (16, 64, 128)


def rms(x: Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.square().mean().sqrt())


def held_out_loss(model: Model, data: Shards) -> float:
    """Return the mean loss of flow matching on held-out data, of the same noise and times for every model."""
    held_out = data.load()
    keys = randomness.keys_of(0, 0, data.samples)
    held_out["noise"] = randomness.noises("held out", keys, model.config.shape)
    return float(FlowMatching().loss({"student": model}, held_out, "student", 0.0, keys).mean())


def derivatives(flow: ModelFlow, x: Tensor, t: Tensor, conditions: dict[str, Tensor]) -> list[Tensor]:
    """Return the velocity's derivative along the flow, by a difference and exactly."""

    def velocity(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return flow(x, t, **conditions)

    moves, ends = flow(x, t, **conditions), torch.ones_like(t)
    return [along_flow(velocity, x, t, ends, moves, exact=exact) for exact in (False, True)]


@torch.no_grad()
def main(artifacts: Path, key: str) -> None:
    """Print a row for each network: as it is, and with slower features."""
    model = load_model(artifacts / "models" / key).eval()
    data = Shards(artifacts / "prepare" / "held_out")
    ((noise, given),) = draws_of(model, "slow times", 0, range(NOISES), batch=NOISES, device="cpu")
    truth = None
    t = torch.linspace(0.02, 0.98, NOISES)
    x = paths.get("linear").sample(noise, data.some(NOISES, seed=0)["data"], t).x
    solved = "  ".join(f"AB2@{nfe:<3}" for nfe in FEW)
    print(f"fastest  loss    moved   {solved}  Dv/Dt  difference off by")
    for fastest in (embedding.FASTEST, 100.0, 20.0):
        embedding.FASTEST_OF_SLOW = fastest
        slowed = model if fastest == embedding.FASTEST else with_slow_times(model, seed=0).eval()
        flow = as_flow(slowed)
        own = integrate(flow, noise, grids.uniform(FINE, solver="ab2"), **given).x
        truth = own if truth is None else truth
        off = [rms(integrate(flow, noise, grids.uniform(nfe, solver="ab2"), **given).x - own) for nfe in FEW]
        difference, exact = derivatives(flow, x, t, given)
        errors = "  ".join(f"{error:.4f}" for error in off)
        loss, moved = held_out_loss(slowed, data), rms(own - truth)
        apart = rms(difference - exact) / rms(exact)
        print(f"{fastest:7.0f}  {loss:.4f}  {moved:.4f}  {errors}  {rms(exact):5.2f}  {apart:.3f}")


if __name__ == "__main__":
    asked = sys.argv[1:]
    main(Path((asked or ["artifacts"])[0]), (asked[1:] or ["base"])[0])
