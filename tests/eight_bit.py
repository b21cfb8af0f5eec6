"""Tests of moments of 8 bits; test_eight_bit.py runs them where torchao is."""

import copy
from dataclasses import replace

import pytest
import torch
from recorded import FixedBatches, run

from fewstep import optimisers
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training import eight_bit, footprint
from fewstep.training.networks import Training

OPTIONS = {"betas": (0.9, 0.99), "weight_decay": 0.01}
SETTINGS = TrainSettings(steps=40, batch=8, warmup=5, moments="8bit")


def step(optimiser, weight, gradient):
    optimiser.param_groups[0]["lr"] = 0.01
    optimiser.found_inf = (~gradient.isfinite().all()).float()
    weight.grad = gradient
    optimiser.step()


def after_steps(numbers):
    """Return a weight at its start, two after the same steps, torch's and ours, and our optimiser."""
    start = torch.linspace(-1, 1, numbers).reshape(-1, 16)
    theirs, ours = (torch.nn.Parameter(start.clone()) for _ in range(2))
    plain, small = (
        optimisers.AdamW([theirs], fused=True, **OPTIONS),
        eight_bit.EightBitAdamW([ours], **OPTIONS),
    )
    for number in range(10):
        for optimiser, weight in ((plain, theirs), (small, ours)):
            gradient = torch.cos(start * number) if number != 3 else torch.full_like(start, torch.nan)
            step(optimiser, weight, gradient)
    return start, theirs, ours, small


def test_small_weights_are_updated_as_torch_does():
    _, theirs, ours, _ = after_steps(1024)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_large_weights_are_updated_nearly_so_with_a_quarter_of_the_bytes():
    start, theirs, ours, optimiser = after_steps(2**16)
    moved, off = ((theirs - other).square().mean().sqrt() for other in (start, ours))
    assert 0 < off < 0.03 * moved
    held = sum(part.nbytes for part in optimiser.state_dict()["state"][0].values())
    assert held < 0.26 * 2 * 4 * 2**16


def test_another_optimiser_resumes_from_a_state_bit_by_bit():
    _, _, weight, optimiser = after_steps(2**16)
    other = torch.nn.Parameter(weight.detach().clone())
    resumed = eight_bit.EightBitAdamW([other], **OPTIONS)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for each, of in ((weight, optimiser), (other, resumed)):
        step(of, each, each.detach().sin())
    assert torch.equal(weight, other)
    assert optimiser.state_dict()["state"][0].keys() == {
        "step", "exp_avg/codes", "exp_avg/scale", "exp_avg_sq/codes", "exp_avg_sq/scale"
    }  # fmt: skip


def test_a_state_without_a_weight_lets_it_start_anew():
    start, _, weight, optimiser = after_steps(2**16)
    optimiser.load_state_dict({"state": {}})
    fresh = torch.nn.Parameter(weight.detach().clone())
    for each, of in ((weight, optimiser), (fresh, eight_bit.EightBitAdamW([fresh], **OPTIONS))):
        step(of, each, start.sin())
    assert torch.equal(weight, fresh)


def wide():
    architecture = {"name": "mlp", "width": 64, "depth": 2}
    return build(ModelConfig(architecture=architecture, shape=(2,)), seed=0)


class Stopping(FixedBatches):
    def __getitem__(self, step):
        if step == 23:
            raise InterruptedError
        return super().__getitem__(step)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    whole = run(tmp_path / "whole", model=wide(), settings=SETTINGS)
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", model=wide(), settings=SETTINGS, batches=Stopping(8))
    cut = run(tmp_path / "cut", model=wide(), settings=SETTINGS)
    weights = whole.model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in cut.model.state_dict().items())
    exact = run(tmp_path / "exact", model=wide(), settings=replace(SETTINGS, moments="float32"))
    assert 0 < abs(cut.held_out_loss - exact.held_out_loss) < 0.02 * exact.held_out_loss


def test_a_memory_plan_counts_the_bytes_of_eight_bit_moments():
    batch, keys = FixedBatches(footprint.BATCH)[0]
    held = {}
    for moments in ("float32", "8bit"):
        settings = TrainSettings(steps=9, moments=moments)
        training = Training(FlowMatching(), wide(), {}.get, settings, 0, torch.device("cpu"))
        held[moments] = footprint.measure(training, batch, keys).held.moments
    weights = [weight.numel() for weight in wide().parameters()]
    large = sum(count for count in weights if count >= eight_bit.LEAST)
    assert large > 0.5 * sum(weights)
    assert held["8bit"] == held["float32"] - 2 * (4 * large - large - large // eight_bit.BLOCK * 4)
