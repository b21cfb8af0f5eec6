"""What stages ask of a model: to be a flow, and how many calls."""

import pytest
from jobs import job_in

from fewstep.checkpoint import save_model
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid, uniform
from fewstep.model import ModelConfig, build
from fewstep.spacings import SPACINGS, edm
from stages import couple
from stages.sampling.open_model import grid_of_nfe


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"trained_times": "grid", "grid": uniform(2)}, "trained only at the timesteps of its grid"),
        ({"deterministic": False}, "not deterministic"),
    ],
)
def test_models_that_make_no_pairs(tmp_path, config, told):
    architecture = {"name": "mlp", "width": 8, "depth": 1}
    save_model(
        tmp_path / "model", build(ModelConfig(architecture=architecture, shape=(2,), **config), seed=0)
    )
    job = job_in(tmp_path, "couple", "boss", inputs={"model": tmp_path / "model"})
    with pytest.raises(UserError, match=f"couple@boss can't use model: it is {told}"):
        couple.run(couple.Config(model="base", pairs=4), job)


def test_calls_become_steps_of_a_spacing():
    flow = FieldFlow(lambda x, t: x, t_start=0.1, t_end=0.99)
    assert grid_of_nfe(flow, "euler", 4) == uniform(4, start=0.1)
    expected = Grid(edm(4, start=0.1, end=0.99), "heun")
    assert grid_of_nfe(flow, "heun", 8, spacing="edm") == expected
    flow.nfe_per_velocity = 2
    assert {grid_of_nfe(flow, "heun", 8, spacing=name).steps for name in SPACINGS} == {2}
    with pytest.raises(UserError, match="6 NFE are no whole number of heun steps of 4 NFE each"):
        grid_of_nfe(flow, "heun", 6)
