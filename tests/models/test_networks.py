import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from fewstep import registry
from fewstep.errors import UserError
from fewstep.model import ModelConfig, build

SHAPES = {
    "adm": [(3, 8, 8), (1, 2, 6)],
    "mlp": [(2,), (7,), (1, 4, 4), (3, 5, 3)],
    "dit": [(4, 8, 8), (1, 4, 10)],
    "unet": [(1, 8, 8), (3, 8, 8), (2, 9, 13), (1, 28, 28), (1, 11, 8)],
}
WRAPPED = {"diffusers", "imported"}  # networks of others, whose tests are in tests/foreign
NAMES = sorted({*registry.available("fewstep.models")} - WRAPPED)
CASES = [(name, shape) for name in NAMES for shape in SHAPES[name]]


def model(name, shape, classes=0, **options):
    config = ModelConfig(architecture={"name": name, **options}, shape=shape, classes=classes)
    return build(config, seed=3)


def awake(network):
    """Give a network, which starts at zero, some output."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("classes", [0, 3])
def test_output_has_the_sample_shape_and_starts_at_zero(name, shape, classes):
    net = model(name, shape, classes)
    label = {"label": torch.tensor([0, 2, 3])} if classes else {}  # 3 is the null class
    out = net(torch.randn(3, *shape), torch.tensor([0.0, 0.5, 1.0]), **label)
    assert out.shape == (3, *shape)
    assert not out.any()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_sample_does_not_see_the_others(name, shape):
    net = awake(model(name, shape, 3))
    x, t, label = torch.randn(5, *shape), torch.rand(5), torch.tensor([0, 1, 2, 3, 0])
    whole = net(x, t, label=label)
    torch.testing.assert_close(net(x[:3], t[:3], label=label[:3]), whole[:3])


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_weight_gets_a_gradient_and_every_input_matters(name, shape):
    net = awake(model(name, shape, 3))
    x = torch.randn(4, *shape, requires_grad=True)
    t = torch.rand(4, requires_grad=True)
    net(x, t, label=torch.tensor([0, 1, 2, 3])).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.any() for p in net.parameters())
    assert t.grad.all()
    assert x.grad.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", NAMES)
def test_labels_change_the_output_and_the_null_class_is_the_default(name):
    shape = SHAPES[name][0]
    net, x, t = awake(model(name, shape, 3)), torch.randn(2, *shape), torch.rand(2)
    zero, one, null = (net(x, t, label=torch.full((2,), n)) for n in (0, 1, 3))
    assert not torch.allclose(zero, one)
    torch.testing.assert_close(net(x, t), null)
    with pytest.raises(UserError, match="without classes"):
        awake(model(name, shape))(x, t, label=torch.zeros(2).long())


def test_unet_attention_and_deep_pyramids():
    net = awake(model("unet", (1, 16, 9), multipliers=[1, 2, 2], attention=True, blocks=1))
    assert net(torch.randn(2, 1, 16, 9), torch.rand(2)).shape == (2, 1, 16, 9)
    plain = awake(model("unet", (1, 16, 9), multipliers=[1, 2, 2], blocks=1))
    assert sum(p.numel() for p in net.parameters()) > sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_weights_depend_on_the_seed_alone(name):
    config = ModelConfig(architecture={"name": name}, shape=SHAPES[name][0])
    torch.manual_seed(1)
    first = build(config, seed=5).state_dict()
    torch.manual_seed(2)
    again, other = build(config, seed=5).state_dict(), build(config, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("unet", (2,), {}, "unet needs images.*use mlp"),
        ("unet", (1, 3, 8), {}, "need images of 4x4 or more, got 3x8"),
        ("unet", (1, 8, 8), {"multipliers": [1, 2, 2, 2]}, "give fewer multipliers"),
        ("unet", (1, 8, 8), {"blocks": 0}, "1 or more"),
        ("unet", (1, 8, 8), {"multipliers": []}, r"multipliers must be one or more numbers from 1, got \[\]"),
        ("unet", (1, 8, 8), {"widht": 8}, "widht"),
        ("mlp", (2,), {"width": 0}, "^mlp: width must be 1 or more, got 0$"),
        ("dit", (2,), {}, "dit needs images.*use mlp"),
        ("dit", (1, 8, 9), {}, "8x9 can't be cut into squares of 2; set patch to a divisor"),
        ("dit", (1, 8, 8), {"depth": 0}, "1 or more"),
        ("dit", (1, 8, 8), {"width": 6, "heads": 3}, "multiple of the heads, 3, and of 4, got 6"),
        ("dit", (1, 8, 8), {"width": 8, "heads": 3}, "multiple of the heads, 3, and of 4, got 8"),
    ],
)
def test_impossible_options_of_networks_are_refused(name, shape, options, message):
    with pytest.raises(UserError, match=message):
        model(name, shape, **options)


@pytest.mark.parametrize("name", NAMES)
def test_options_round_trip(name):
    design = registry.find("fewstep.models", name)()
    assert type(design)(**asdict(design)) == design


def test_settings_need_no_torch():
    modules = [f"fewstep.{p}.{n}" for p in ("models", "methods") for n in registry.available(f"fewstep.{p}")]
    code = f"import sys, fewstep.settings, {', '.join(modules)}; from fewstep import registry\n"
    code += "for name in registry.available('fewstep.methods'): registry.find('fewstep.methods', name)()\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
