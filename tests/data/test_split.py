"""Which samples are trained on, and which held out."""

import pytest
import torch

from fewstep.data import split
from fewstep.errors import UserError


def test_split_is_a_fixed_partition():
    train, held_out = split(1797, 0.25, 0)
    assert (len(train), len(held_out)) == (1347, 450)
    assert sorted(train.tolist() + held_out.tolist()) == list(range(1797))
    assert torch.equal(held_out, split(1797, 0.25, 0)[1])
    assert not torch.equal(held_out, split(1797, 0.25, 1)[1])


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.5])
def test_a_split_with_an_empty_part_is_refused(share):
    with pytest.raises(UserError, match="held_out"):
        split(10, share, 0)


@pytest.mark.parametrize(("share", "leaves"), [(0.1, "9 to train on and holds out 1"), (0.4, "6 to train")])
def test_a_split_with_a_part_too_small_for_its_use_is_refused(share, leaves):
    assert len(split(10, 0.3, 0, at_least=(7, 2))[0]) == 7
    with pytest.raises(UserError, match=f"{leaves}.*but 7 and 2 are needed; change held_out"):
        split(10, share, 0, at_least=(7, 2))
