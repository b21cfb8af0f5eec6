"""Networks that take guidance as an input: how they start, are kept, sampled with a scale, and refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fewstep import command_line
from fewstep.checkpoint import CONFIG, load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.guidance_input import with_guidance_input
from fewstep.lora import with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.model import Model, ModelConfig, build
from fewstep.model_grids import choose
from fewstep.models.mlp import Mlp
from fewstep.solvers import integrate
from fewstep.timing import with_second_time

SHAPES = {"adm": (1, 4, 4), "dit": (1, 4, 4), "mlp": (2,), "unet": (1, 8, 8)}
WIDTHS = {"adm": 32, "dit": 8, "mlp": 8, "unet": 8}
SCALES = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0, 2.5])


def small(name="mlp", **config):
    facts = {"architecture": {"name": name, "width": WIDTHS[name]}, "shape": SHAPES[name], "classes": 3}
    return moved(build(ModelConfig(**facts | config), seed=0)).eval()


def moved(model):
    """Return the model with other weights; those of a fresh one's last layers are zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def asked(name="mlp"):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, *SHAPES[name], generator=generator)
    return x, 0.5 * torch.rand(6, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])


def ranged(name="mlp", *, grid=None, **config):
    """Return a network that was trained with guidance from 1 to 4, or looks as if."""
    model = moved(with_guidance_input(small(name, **config), seed=3))
    more = {"guidance_range": (1, 4), "guidable": False}
    more |= {} if grid is None else {"grid": grid, "trained_times": "until_1"}
    return Model(replace(model.config, **more), model.network).eval()


@pytest.mark.parametrize("conditions", [{}, {"place": (2,)}])
@pytest.mark.parametrize("name", SHAPES)
def test_guidance_changes_nothing_at_first_and_is_then_learned(name, conditions):
    model, (x, t, label) = small(name, conditions=conditions), asked(name)
    given = {"label": label} | {each: torch.randn(6, 2) for each in conditions}
    for plain in (model, with_second_time(model, seed=4)):
        wider = with_guidance_input(plain, seed=3)
        before = {key: tensor.clone() for key, tensor in wider.state_dict().items()}
        assert torch.equal(wider(x, t, **given), model(x, t, **given))
        assert torch.equal(wider(x, t, guidance=SCALES, **given), model(x, t, **given))
        optimiser = torch.optim.Adam(wider.parameters(), lr=0.01)
        for _ in range(2):  # the last layer first, for it starts at zero; then what lies before it
            optimiser.zero_grad()
            wider(x, t, guidance=SCALES, **given).square().sum().backward()
            optimiser.step()
        added = wider.state_dict().keys() - plain.state_dict().keys()
        assert len(added) == 4
        assert all(not torch.equal(wider.state_dict()[key], before[key]) for key in added)
        plainly, twice = wider(x, t, **given), wider(x, t, guidance=2.0, **given)
        each = wider(x, t, guidance=SCALES, **given)
        assert not torch.allclose(plainly, twice)
        torch.testing.assert_close(each[[0, 2]], torch.stack([plainly[0], twice[2]]))


def test_what_guidance_adds_depends_on_the_seed_alone():
    first, again, other = (with_guidance_input(small(), seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_guidance_of_some_channels_is_an_input_for_all():
    assert with_guidance_input(small(guidance_channels=1), seed=0).config.guidance_channels is None


def test_a_model_directory_keeps_the_range_and_others_say_nothing_of_it(tmp_path):
    model, (x, t, label) = ranged(), asked()
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert again.config.guidance_range == (1.0, 4.0)
    assert torch.equal(again(x, t, label=label, guidance=3.0), model(x, t, label=label, guidance=3.0))
    save_model(tmp_path / "plain", small())
    assert "guidance_range" not in json.loads((tmp_path / "plain" / CONFIG).read_text())
    assert load_model(tmp_path / "plain").config.guidance_range is None


def test_one_call_shows_a_scale_and_two_make_the_same_of_a_network_without_the_input():
    model, (x, t, label) = ranged(), asked()
    label = label.clamp(max=2)
    flow = as_flow(model, guidance=3.0)
    assert flow.nfe_per_velocity == 1
    torch.testing.assert_close(flow(x, t, label=label), model(x, t, label=label, guidance=3.0))
    plain = small()
    each = as_flow(plain, guidance=SCALES)
    assert each.nfe_per_velocity == 2
    one_by_one = [as_flow(plain, guidance=float(s))(x, t, label=label)[n] for n, s in enumerate(SCALES)]
    torch.testing.assert_close(each(x, t, label=label), torch.stack(one_by_one))


def test_guidance_is_asked_for_towards_a_label():
    x, t, _ = asked()
    model = ranged()
    model.config = replace(model.config, guidable=True)
    as_flow(model)(x, t)
    with pytest.raises(UserError, match=r"needs a label for each sample, as guidance 2\.0 leads towards one"):
        as_flow(model, guidance=2.0)(x, t)


def test_own_steps_are_taken_at_any_scale_of_the_range():
    model = ranged(grid=uniform(1))
    grid = choose(model.config, None, None, "euler", 3.0)
    assert (grid.steps, grid.guidance) == (1, 3.0)
    one_scale = replace(model.config, guidance_range=None)
    assert choose(one_scale, None, None, "euler", 3.0).guidance == 1.0


@pytest.mark.parametrize("scale", [0.5, 4.5])
def test_a_scale_outside_of_the_range_is_refused(scale):
    with pytest.raises(
        UserError, match=f"trained with guidance from 1 to 4; ask for one of these, not {scale}"
    ):
        as_flow(ranged(), guidance=scale)


def test_ranges_that_a_config_can_not_have():
    config = ranged().config
    for wrong in ((4, 1), (3,), (2, 4)):
        with pytest.raises(UserError, match="goes from 1, which is none, up to a larger scale"):
            replace(config, guidance_range=wrong)
    with pytest.raises(UserError, match=r"shows no guidance beside it; .* baked_guidance 2"):
        replace(config, baked_guidance=2.0)
    with pytest.raises(UserError, match="guidance_input is False"):
        replace(config, guidance_input=False)


class Fixed(nn.Module):
    """A network whose layers are the same whatever it is given."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)


def test_networks_that_get_no_such_layer_are_refused(monkeypatch):
    adapter = with_lora(small(), LoraSettings(rank=2), seed=0)
    with pytest.raises(UserError, match="lora: a network with guidance as an input would be another base"):
        with_guidance_input(adapter, seed=0)
    monkeypatch.setattr(Mlp, "build", lambda self, shape, classes, guidance_input=False: Fixed())
    fixed = build(ModelConfig(architecture={"name": "mlp"}, shape=(2,)), seed=0)
    with pytest.raises(UserError, match="model mlp: its network gets no layer for guidance as an input"):
        with_guidance_input(fixed, seed=0)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ranged(grid=uniform(1))
    save_model(tmp_path / "model", model)
    return model


def fewstep(*words):
    """Run a command in this process and return what it ended with: None, or its message."""
    with pytest.raises(SystemExit) as ended:
        command_line.main([str(word) for word in words])
    return ended.value.code or None


def test_a_user_picks_the_scale_when_sampling(saved, capsys):
    made = []
    for scale in (1, 2, 3.5):
        words = ("--guidance", scale, "--samples", 6, "--out", "x.safetensors")
        assert fewstep("sample", "model", *words) is None
        assert "6 samples in 1 network calls each" in capsys.readouterr().out
        made.append(load_file("x.safetensors")["samples"])
    assert not torch.allclose(made[0], made[1])
    assert not torch.allclose(made[1], made[2])
    told = fewstep("sample", "model", "--guidance", 5, "--out", "x.safetensors")
    assert "trained with guidance from 1 to 4; ask for one of these, not 5" in told


def test_an_exported_sampler_shows_the_scale_that_it_was_exported_with(saved, tmp_path):
    assert fewstep("export", "model", "out", "--guidance", 3, "--formats", "pt2") is None
    assert json.loads((tmp_path / "out" / "fewstep.json").read_text())["guidance"] == 3.0
    sampler = torch.export.load(tmp_path / "out" / "sampler.pt2").module()
    noise, label = torch.randn(5, 2), torch.arange(5) % 3
    flow = as_flow(saved, guidance=3.0)
    with torch.no_grad():
        wanted = integrate(flow, noise, uniform(1), label=label).x
    torch.testing.assert_close(sampler(noise, label=label), wanted)
