"""The monitor's net: what it needs no label to see."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fewstep.errors import UserError
from fewstep.metrics import denoiser, features
from fewstep.metrics.denoiser import train_denoiser
from fewstep.metrics.frechet import Moments, frechet_distance


def gaussians(n, modes, seed=0):
    """Points of some of four round modes."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    return centres[torch.arange(n) % modes] + 0.1 * torch.randn(n, 2, generator=draw)


def waves(n, seed=0):
    """Smooth colour images of 8 x 8 pixels."""
    draw = torch.Generator().manual_seed(seed)
    place = torch.arange(8) / 8
    phase, tilt = (torch.rand(n, 3, 1, 1, generator=draw) for _ in range(2))
    return torch.sin(6.28 * (phase + tilt * place[:, None] + (1 - tilt) * place))


def distances(net, data, others):
    """Return the distance of each of several sets from the data."""
    moments = Moments.of(net.features(data))
    return [frechet_distance(moments, Moments.of(net.features(other))) for other in others]


@pytest.fixture(scope="module")
def net():
    return train_denoiser(gaussians(400, 4), steps=150, seed=0)


def test_the_distance_grows_with_the_number_of_missing_modes(net):
    apart = distances(net, gaussians(400, 4), [gaussians(400, modes, seed=1) for modes in (4, 3, 2, 1)])
    assert apart == sorted(apart)
    assert 20 * apart[0] < apart[1]


def test_the_distance_grows_with_the_shift_of_the_modes(net):
    fresh = gaussians(400, 4, seed=1)
    apart = distances(net, gaussians(400, 4), [fresh + shift for shift in (0.0, 0.1, 0.3, 1.0)])
    assert apart == sorted(apart)


def test_blur_and_noise_of_images_are_seen():
    net = train_denoiser(waves(400), steps=100, seed=0)
    fresh = waves(400, seed=1)
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(2))
    sets = [fresh, fresh + 0.5 * noise, functional.avg_pool2d(fresh, 3, 1, 1)]
    same, noisy, blurred = distances(net, waves(400), sets)
    assert 4 * same < noisy
    assert 4 * same < blurred


def test_same_seed_same_bytes_another_seed_another_net(net):
    torch.manual_seed(123)  # the global generator has no say
    before = torch.random.get_rng_state()
    again, other = (train_denoiser(gaussians(400, 4), steps=150, seed=seed) for seed in (0, 1))
    assert again.digest == net.digest != other.digest
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_denoiser_is_stored_beside_the_classifier_under_its_own_name(net, tmp_path):
    features.save(tmp_path, net, {}, name=denoiser.MONITOR)
    with pytest.raises(UserError, match="no feature net"):
        features.load(tmp_path, name="another")
    loaded, card = features.load(tmp_path, name=denoiser.MONITOR)
    data = gaussians(20, 4)
    np.testing.assert_array_equal(loaded.features(data), net.features(data))
    assert card["backend"] == f"denoising-32 sha256:{net.digest[:8]}"
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_single_sample_is_refused():
    with pytest.raises(UserError, match="needs 2 or more samples, got 1"):
        train_denoiser(torch.zeros(1, 2), seed=0)
