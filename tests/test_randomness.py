import numpy as np
import pytest
import torch

from fewstep import randomness
from fewstep.randomness import keys_of

STREAMS = ("train", "couple", "search", "evaluate", "trajectories")


def noise_of(stream, seed, index, shape):
    """The noise of one sample, from its own generator."""
    drawn = randomness.generator(stream, seed, index).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn)


def test_golden_bytes():
    """Every number of the project hangs on these; a change of them is a change of every result."""
    assert randomness.digest64("train", 0) == 17142742167423918254
    noise = noise_of("train", 0, 0, (4,)).numpy()
    assert noise.astype("<f4").tobytes().hex() == "b5466fbf786e94bf5ff5033ebc16a03f"
    later = noise_of("evaluate", 2**40 + 7, 12345, (2, 2)).numpy()
    assert later.astype("<f4").tobytes().hex() == "9478303fb5aee5be89d51b3df7535d3f"
    assert randomness.permutation("train", 3, 1, 8).tolist() == [0, 1, 5, 6, 2, 7, 4, 3]
    uniforms = randomness.uniforms("search", keys_of(1, 5, 7)).numpy()
    assert uniforms.astype("<f4").tobytes().hex() == "606cbb3c608a153f"


@pytest.mark.parametrize(
    "draw",
    [lambda keys: randomness.noises("train", keys, (2, 3)), lambda keys: randomness.uniforms("train", keys)],
)
def test_a_samples_numbers_do_not_depend_on_its_batch(draw):
    whole = draw(keys_of(0, 0, 15))
    for size in (3, 5):
        parts = [draw(keys_of(0, start, start + size)) for start in range(0, 15, size)]
        assert torch.equal(torch.cat(parts), whole)
    shuffled = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(keys_of(0, 0, 15)[shuffled]), whole[shuffled])


def test_a_batch_draws_for_each_sample_what_it_draws_alone():
    keys = torch.tensor([[0, 5], [2**62, 0], [-1, 2**40], [0, 5], [0, 4]])
    for count in (1, 2, 3, 7):  # the generator keeps half a number after an odd count
        each = [noise_of("train", seed, index, (count,)) for seed, index in keys.tolist()]
        assert torch.equal(randomness.noises("train", keys, (count,)), torch.stack(each))
    each = [randomness.generator("train", *key).random(dtype=np.float32) for key in keys.tolist()]
    assert randomness.uniforms("train", keys).tolist() == each


def test_each_update_of_a_step_has_its_own_numbers_of_the_sample():
    keys = torch.tensor([[7, 0], [7, 1], [9, 0], [2**62, 5]])
    assert torch.equal(randomness.keys_of_update(keys, 0), keys)
    turns = [randomness.uniforms("train", randomness.keys_of_update(keys, turn)) for turn in range(4)]
    assert len(set(torch.cat(turns).tolist())) == 16
    assert torch.equal(randomness.keys_of_update(keys, 2)[1:], randomness.keys_of_update(keys[1:], 2))


def test_streams_seeds_and_samples_never_share_numbers():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63)  # the low 32 bits alone would not tell these apart
    seen = [
        noise_of(stream, seed, index, (4,)).numpy().tobytes()
        for stream in STREAMS
        for seed in seeds
        for index in (0, 1, 2**40)
    ]
    assert len(set(seen)) == len(seen)


def test_stream_and_seed_are_hashed_apart():
    assert randomness.digest64("train1", 2) != randomness.digest64("train", 12)


def test_the_numbers_of_neighbouring_samples_do_not_overlap():
    long = noise_of("train", 0, 0, (100_000,))
    following = noise_of("train", 0, 1, (4,))
    assert not any(torch.equal(long[i : i + 4], following) for i in range(99_996))


def test_noise_is_standard_normal_and_uniforms_fill_the_unit_interval():
    noise = randomness.noises("train", keys_of(0, 0, 2000), (10,))
    assert abs(float(noise.mean())) < 0.03
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    uniforms = randomness.uniforms("train", keys_of(0, 0, 2000))
    assert 0 <= float(uniforms.min()) < 0.01
    assert 0.99 < float(uniforms.max()) < 1


def test_permutation_visits_all_in_another_order_each_epoch():
    orders = [randomness.permutation("train", 0, epoch, 50) for epoch in range(3)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders}) == 3


def test_keys_name_seed_and_index():
    assert keys_of(7, 2, 5).tolist() == [[7, 2], [7, 3], [7, 4]]


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.0, 0.5, 0.0, 0.5, 0.0), (0.1,) * 10, (1.0,)])
def test_labels_are_as_frequent_as_their_shares_say_in_any_run_of_samples(shares):
    for seed, start in [(0, 0), (7, 12345), (2**63 - 1, 2**34), (-1, 3)]:
        counts = np.bincount(randomness.labels("couple", keys_of(seed, start, start + 1000), shares))
        wanted = 1000 * np.array(shares)
        assert abs(counts - wanted[: len(counts)]).max() < 6  # independent draws: up to 30
        assert (counts[wanted[: len(counts)] == 0] == 0).all()


def test_a_label_is_of_the_sample_alone():
    keys, shares = keys_of(3, 0, 60), (0.3, 0.7)
    whole = randomness.labels("couple", keys, shares)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(randomness.labels("couple", keys[shuffled], shares), whole[shuffled])
    for other in (
        randomness.labels("search", keys, shares),
        randomness.labels("couple", keys_of(4, 0, 60), shares),
    ):
        assert not torch.equal(other, whole)
    assert randomness.labels("couple", keys_of(0, 0, 12), (0.25, 0.75)).tolist() == [
        1,
        1,
        0,
        1,
        0,
        1,
        1,
        0,
        1,
        1,
        1,
        1,
    ]
