"""A model that is only sampled: in half precision if settings ask, compiled if the environment does."""

import pytest
import torch
from jobs import job_in

from fewstep import grids, solvers
from fewstep.checkpoint import save_model
from fewstep.flow import as_flow
from fewstep.model import ModelConfig, build
from stages import search, trajectories
from stages.sampling.open_model import open_flow, open_model, open_sampler, usable

NETWORKS = {
    "mlp": ({"name": "mlp", "width": 32, "depth": 2}, (2,)),
    "unet": ({"name": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1}, (1, 8, 8)),
}


@pytest.fixture(autouse=True)
def no_compiler_known():
    usable.cache_clear()


@pytest.fixture(params=NETWORKS)
def folder(request, tmp_path):
    architecture, shape = NETWORKS[request.param]
    model = build(ModelConfig(architecture=architecture, shape=shape, classes=3), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():  # a fresh network's last layer is zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(tmp_path, model)
    return tmp_path


def sampled(model):
    noise = torch.randn(6, *model.config.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return solvers.integrate(as_flow(model), noise, grids.uniform(16), label=torch.arange(6) % 3).x


def test_half_precision_halves_the_weights_and_keeps_states_in_float32(folder):
    whole, half = open_model(folder), open_sampler(folder, "bfloat16")
    size, halved = (sum(weight.nbytes for weight in model.parameters()) for model in (whole, half))
    assert halved == size / 2
    exact, near = sampled(whole), sampled(half)
    assert near.dtype == torch.float32
    assert not torch.equal(near, near.bfloat16().float())  # steps are added up finer than a network computes
    off = (near - exact).square().mean().sqrt() / exact.std()
    assert 0 < off < 0.02


def test_models_that_will_be_trained_are_not_compiled(folder, monkeypatch):
    monkeypatch.setenv("FEWSTEP_COMPILE", "on")
    monkeypatch.setattr("fewstep.training.engine.compiler_fails", lambda device: pytest.fail("it was tried"))
    model, _ = open_flow(folder, purpose="a test")
    assert torch.equal(sampled(model), sampled(open_model(folder)))


def test_the_environment_has_blocks_compiled_that_are_sampled(folder, monkeypatch):
    compiled = []
    monkeypatch.setenv("FEWSTEP_COMPILE", "on")
    monkeypatch.setenv("FEWSTEP_CHANNELS_LAST", "on")
    monkeypatch.setenv("FEWSTEP_RECOMPUTE", "on")  # is for gradients alone
    monkeypatch.setattr("fewstep.training.engine.compiler_fails", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    model, _ = open_flow(folder, purpose="a test", precision="float32")
    assert compiled
    torch.testing.assert_close(sampled(model), sampled(open_model(folder)), rtol=1e-4, atol=1e-5)
    wide = [weight for weight in model.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)


def test_where_nothing_can_be_compiled_one_line_says_so(folder, monkeypatch, capsys):
    monkeypatch.setenv("FEWSTEP_COMPILE", "on")
    monkeypatch.setattr("fewstep.training.engine.compiler_fails", lambda device: "no compiler")
    model, _ = (open_sampler(folder, "float32") for _ in range(2))
    assert capsys.readouterr().out.count("nothing can be compiled here (no compiler)") == 1
    assert torch.equal(sampled(model), sampled(open_model(folder)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trajectories_are_followed_in_the_precision_asked_for_and_say_so(folder, tmp_path_factory, precision):
    out = tmp_path_factory.mktemp("chain")
    inputs = {"model": folder, "search": out / "search"}
    searched = job_in(out / "searching", "search", "base", inputs={"model": folder}, picture=lambda *_: None)
    small = {"budgets": [2], "truth_steps": 2, "report_noises": 16, "batch": 16}
    search.run(search.Config(teacher="base", method="uniform", precision=precision, **small), searched)
    inputs["search"] = searched.out
    job = job_in(out / "following", "trajectories", "pretrain", inputs=inputs)
    wanted, maker = trajectories.work(trajectories.Config(samples=8, precision=precision), job)
    held = {weight.dtype for weight in maker.open().model.parameters()}
    assert held == {getattr(torch, precision)}
    assert wanted.recipes["train"].facts.get("precision", "float32") == precision
