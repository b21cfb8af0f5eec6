import pytest
import torch

from fewstep.pairs import PairLoss

SPREAD = torch.tensor([0.9, 1.1]).repeat(200)


def test_pair_loss_has_means_their_ratio_and_the_standard_error():
    loss = PairLoss.of(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 5.0]))
    assert (loss.train, loss.held_out, loss.ratio) == pytest.approx((2, 3, 1.5))
    assert loss.difference_se == pytest.approx(1 / 3**0.5)


@pytest.mark.parametrize(
    ("fresh", "said"),
    [
        (SPREAD, "40 pairs are enough (loss 1 on its own, 1 ± 0 on fresh ones)"),
        (SPREAD + 0.05, "40 pairs are enough (loss 1 on its own, 1.05"),
        (SPREAD + 0.2, "the model knows its training pairs better than fresh ones (loss 1 on its own, 1.2"),
        (SPREAD.flip(0) * torch.arange(400) / 100, "whether 40 pairs are enough can't be told"),
    ],
)
def test_advice_says_whether_the_pairs_are_enough(fresh, said):
    known = SPREAD if not said.startswith("whether") else SPREAD.flip(0) * torch.arange(400).flip(0) / 115
    assert PairLoss.of(known, fresh).advice(40, "couple.x").startswith(said)


def test_advice_names_the_settings():
    known = PairLoss.of(SPREAD, 2 * SPREAD).advice(40, "couple.x")
    assert known.endswith("make more pairs (couple.x.pairs, now 40) or train fewer steps")
    unclear = PairLoss.of(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 1.0])).advice(40, "couple.x")
    assert unclear.endswith("raise couple.x.held_out")
