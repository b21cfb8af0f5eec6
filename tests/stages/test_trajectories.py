"""trajectories as a stage: which states are kept, and what follows the flow between them."""

from dataclasses import replace

import pytest
import torch
from jobs import job_in

from fewstep import grids
from fewstep.checkpoint import model_digest, save_model
from fewstep.flow import as_flow
from fewstep.model import ModelConfig, build
from fewstep.shards import Shards
from fewstep.solvers import trajectory
from stages import trajectories
from stages.searching.grids_file import SearchedGrids, write_grids


@pytest.mark.parametrize(("asked", "used"), [(None, "heun"), ("ab2", "ab2")])
def test_the_fine_timesteps_are_followed_by_the_solver_that_is_asked_for(asked, used, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    model = build(ModelConfig(architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,)), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    save_model(tmp_path / "model", model)
    marks = {"model_digest": model_digest(tmp_path / "model")}
    two, fine = (replace(grid, **marks) for grid in (grids.uniform(2), grids.uniform(6, solver="heun")))
    (tmp_path / "search").mkdir()
    write_grids(tmp_path / "search", SearchedGrids(grids={2: two}, fine=fine, method={}), None)
    inputs = {"model": tmp_path / "model", "search": tmp_path / "search"}
    job = job_in(tmp_path, "trajectories", "base", inputs=inputs)
    trajectories.run(trajectories.Config(samples=4, held_out=2, keep="all", solver=asked), job)
    made = Shards(tmp_path / "out" / "train")
    states = made.read(0)["states"]
    grid = grids.uniform(6, solver=used)
    with torch.no_grad():
        expected = torch.stack(list(trajectory(as_flow(model), states[:, 0], grid)), dim=1)
    assert made.facts.get("solver") == asked
    assert made.facts["timesteps"] == pytest.approx(grid.times)
    torch.testing.assert_close(states, expected)
