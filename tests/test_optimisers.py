"""Optimisers step as torch's do, and a training never loads torch's compiler."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from fewstep import optimisers


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("fused", [True, False])
def test_the_steps_are_those_of_torch_bit_by_bit(name, fused):
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2)]
    ours, theirs = (
        getattr(module, name)([weight], lr=0.1, weight_decay=0.01, fused=fused)
        for module, weight in zip((optimisers, torch.optim), weights, strict=True)
    )
    for step in range(5):
        for optimiser, weight in ((ours, weights[0]), (theirs, weights[1])):
            optimiser.zero_grad()
            (weight.sin() * (step + weight)).sum().backward()
            optimiser.step()
        assert torch.equal(*weights)
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()


WITHOUT = """
import sys
from pathlib import Path

import trainings

trainings.alone(Path(sys.argv[1]))
assert "torch._dynamo" not in sys.modules
"""


def test_a_training_does_without_torchs_compiler(tmp_path):
    """It would take seconds to import."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", WITHOUT, tmp_path], env=environment, check=True)
