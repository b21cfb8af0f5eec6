import json
import weakref

import numpy as np
import pytest
import torch

from fewstep.errors import UserError
from fewstep.metrics import features
from fewstep.metrics.denoiser import train_denoiser
from fewstep.metrics.features import FeatureNet, pseudo_labels, train_feature_net
from fewstep.metrics.saved import as_saved


def stripes(n, seed=0, shape=(1, 8, 8)):
    """Noisy images in two classes: horizontal and vertical stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    wave = torch.arange(shape[-1]).remainder(2).float() * 2 - 1
    pattern = torch.stack([wave[:, None].expand(shape), wave.expand(shape)])
    return pattern[labels] + 0.5 * torch.randn((n, *shape), generator=generator), labels


@pytest.fixture(scope="module")
def net():
    return train_feature_net(*stripes(200), steps=30, seed=0)


def test_learns_to_tell_the_classes_apart(net):
    data, labels = stripes(100, seed=1)
    assert net.accuracy(data, labels) > 0.95
    assert np.mean(net.classify(data) == labels.numpy()) == net.accuracy(data, labels)


def test_features_have_unit_spread_on_the_train_split(net):
    found = net.features(stripes(200)[0])
    assert found.shape == (200, features.FEATURES)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-4)


def test_the_spread_in_a_set_too_large_is_that_of_a_draw_from_it(net, monkeypatch):
    data, labels = stripes(200)
    data[::2] *= 1.5
    whole = train_feature_net(data, labels, steps=30, seed=0)
    monkeypatch.setattr(features, "LOOKED_AT", 50)
    asked, look_at = [], FeatureNet.look_at
    monkeypatch.setattr(
        FeatureNet, "look_at", lambda self, data, n: asked.append(len(n)) or look_at(self, data, n)
    )
    some = train_feature_net(data, labels, steps=30, seed=0)
    assert sum(asked) == 30 * 128 + 50
    assert torch.equal(some.head.weight, whole.head.weight)  # what it learned is the same
    assert not torch.equal(some.spread, whole.spread)
    torch.testing.assert_close(some.spread, whole.spread, rtol=0.5, atol=0)


def test_features_are_written_in_place_so_that_memory_does_not_grow_with_the_set(net, monkeypatch):
    data, _ = stripes(200)
    expected = net.classify(data), net.features(data)
    alive, most, by_batch = weakref.WeakSet(), [], FeatureNet._by_batch

    def counted(self, call, rows):
        for part in by_batch(self, call, rows):
            alive.add(part)
            most.append(len(alive))
            yield part

    monkeypatch.setattr(features, "BATCH", 10)
    monkeypatch.setattr(FeatureNet, "_by_batch", counted)
    np.testing.assert_array_equal(net.classify(data), expected[0])
    np.testing.assert_allclose(net.features(data), expected[1], rtol=1e-4, atol=1e-4)
    assert len(most) == 40
    assert max(most) < 5


def test_features_of_a_sample_do_not_depend_on_the_others(net):
    data = stripes(features.BATCH + 44)[0]
    whole = net.features(data)
    for size in (3, 5):
        np.testing.assert_allclose(net.features(data[-size:]), whole[-size:], rtol=1e-4, atol=1e-4)
    assert len(net.classify(data)) == len(data)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (2, 33, 32), (5,)])
def test_any_sample_shape_has_features(shape):
    data = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    net = train_feature_net(data, torch.arange(6) % 3, steps=2, seed=0)
    assert net.features(data).shape == (6, features.FEATURES)
    assert np.isfinite(net.features(data)).all()
    assert set(net.classify(data)) <= {0, 1, 2}


def test_large_images_are_seen_reduced_so_that_a_net_of_them_is_no_larger():
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 1, *sides, generator=draw) for sides in ((64, 32), (512, 256))]
    small, large = (train_feature_net(data, torch.arange(4), steps=1, seed=0) for data in images)
    assert [weight.shape for weight in small.parameters()] == [weight.shape for weight in large.parameters()]
    means = images[0]
    fine = means.repeat_interleave(8, 2).repeat_interleave(8, 3)
    np.testing.assert_allclose(large.features(fine), large.features(means), atol=1e-3)
    torch.testing.assert_close(features.as_seen(fine), means)
    assert features.as_seen(means) is means
    teacher = train_denoiser(fine, steps=1, seed=0)
    assert teacher.features(fine).shape == (4, features.FEATURES)
    assert len(pseudo_labels(fine, clusters=2, seed=0)[0]) == 4


@pytest.mark.parametrize("shape", [(1, 7, 8), (4, 4)])
def test_shapes_that_are_too_small_or_strange_are_refused(shape):
    with pytest.raises(UserError, match=r"8 pixels a side or more; got shape"):
        FeatureNet(shape, 2)


def test_same_seed_same_bytes_another_seed_another_net(net):
    torch.manual_seed(123)  # the global generator has no say
    before = torch.random.get_rng_state()
    again, other = (train_feature_net(*stripes(200), steps=30, seed=seed) for seed in (0, 1))
    assert again.digest == net.digest != other.digest
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_constant_feature_has_a_spread_of_one():
    data = torch.zeros(8, 5)  # all the same, so nothing moves
    net = train_feature_net(data, torch.arange(8) % 2, steps=2, seed=0)
    assert np.isfinite(net.features(data)).all()
    assert torch.equal(net.spread, torch.ones(features.FEATURES))


def test_labels_must_fit_the_data():
    with pytest.raises(UserError, match="got 3 labels for 4 samples"):
        train_feature_net(torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), seed=0)


def test_progress_is_advanced_at_every_step():
    class Listener:
        heard = 0

        def start(self, label, total, **_):
            assert total == 7

        def advance(self, units=1, **values):
            assert values["loss"] > 0
            self.heard += units

    listener = Listener()
    train_feature_net(*stripes(20), steps=7, seed=0, progress=listener)
    assert listener.heard == 7


def test_pseudo_labels_find_the_clusters_and_carry_over_to_other_sets():
    generator = torch.Generator().manual_seed(0)
    cluster = torch.arange(60) % 3
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    train = centres[cluster] + torch.randn(60, 2, generator=generator)
    found, held_out = pseudo_labels(train, centres, clusters=3, seed=0)
    assert found.dtype == held_out.dtype == torch.int64
    assert torch.equal(found, held_out[cluster])
    assert sorted(held_out.tolist()) == [0, 1, 2]


def test_clusters_of_a_set_too_large_are_those_of_a_draw_from_it(monkeypatch):
    train = (
        torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        + 20 * (torch.arange(400) % 3)[:, None]
    )
    (whole,) = pseudo_labels(train, clusters=3, seed=0)
    fitted, kind = [], features.cluster.KMeans

    class Seen(kind):
        def fit(self, x):
            fitted.append(x)
            return super().fit(x)

    monkeypatch.setattr("sklearn.cluster.KMeans", Seen)
    monkeypatch.setattr(features, "CLUSTERED", 100 * 2 * 4)
    (found,) = pseudo_labels(train, clusters=3, seed=0)
    assert len(fitted[0]) == 100
    assert len(set(zip(found.tolist(), whole.tolist(), strict=True))) == 3  # the same clusters


def test_pseudo_labels_need_enough_samples():
    with pytest.raises(UserError, match="4 samples do not make 10 clusters"):
        pseudo_labels(torch.zeros(4, 2), clusters=10, seed=0)


def test_backend_says_what_taught_the_net_and_which_weights_it_has(net):
    assert net.backend == f"labels-32 sha256:{net.digest[:8]}"
    other = FeatureNet((2,), 10, taught_by="clusters10", width=8)
    assert other.backend.startswith("clusters10-8 sha256:")


def test_images_are_seen_as_they_are_saved_and_points_as_they_are():
    torch.manual_seed(0)
    images, points = torch.randn(20, 1, 8, 8) * 2, torch.randn(20, 2) * 2
    net = FeatureNet((1, 8, 8), 3, pixels=True)
    np.testing.assert_array_equal(net.features(images), net.features(as_saved(images)))
    np.testing.assert_array_equal(net.classify(images), net.classify(as_saved(images)))
    raw = FeatureNet((2,), 3)
    assert np.abs(raw.features(points) - raw.features(as_saved(points))).max() > 0.01


def test_a_width_of_its_own_changes_the_net_but_not_its_features_size():
    narrow, wide = (FeatureNet((3, 16, 16), 2, width=width) for width in (8, 24))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (narrow, wide)]
    assert sizes[0] < sizes[1]
    images = torch.zeros(2, 3, 16, 16)
    assert narrow.features(images).shape == wide.features(images).shape == (2, 64)


def test_saved_net_comes_back_whole(net, tmp_path):
    data = stripes(20, seed=2)[0]
    features.save(tmp_path / "net", net, {"held_out_accuracy": 0.98}, name="feature_net")
    loaded, card = features.load(tmp_path / "net", name="feature_net")
    np.testing.assert_array_equal(loaded.features(data), net.features(data))
    assert loaded.backend == net.backend == card["backend"]
    assert card["held_out_accuracy"] == 0.98
    assert json.loads((tmp_path / "net" / "feature_net.json").read_text()) == card
    assert not any(p.requires_grad for p in loaded.parameters())


def test_saved_bytes_are_the_same_every_time(net, tmp_path):
    for name in ("one", "two"):
        features.save(tmp_path / name, net, {"b": 1, "a": 2}, name="feature_net")
    for file in ("feature_net.safetensors", "feature_net.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_missing_and_altered_nets_are_refused(net, tmp_path):
    with pytest.raises(UserError, match=r"no feature net in .*feature_net\.json is missing"):
        features.load(tmp_path, name="feature_net")
    features.save(tmp_path, net, {}, name="feature_net")
    weights = tmp_path / "feature_net.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"is not what feature_net\.json names"):
        features.load(tmp_path, name="feature_net")
    for damaged in ("{", "{}", "[]"):
        (tmp_path / "feature_net.json").write_text(damaged)
        with pytest.raises(UserError, match=r"feature_net\.json is damaged; train the net again"):
            features.load(tmp_path, name="feature_net")
