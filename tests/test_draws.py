import pytest
import torch

from fewstep import randomness
from fewstep.conditions import Conditions
from fewstep.draws import draws
from fewstep.noises import GAUSSIAN


@pytest.mark.parametrize("batch", [1, 3, 5, 100])
def test_noise_and_label_belong_to_the_index_whatever_the_batch(batch):
    law = Conditions((0.1, 0.2, 0.3, 0.4))
    drawn = list(draws("couple", 7, range(5, 20), shape=(2, 3), law=GAUSSIAN, conditions=law, batch=batch))
    assert [len(noise) for noise, _ in drawn[:-1]] == [batch] * (len(drawn) - 1)
    noise = torch.cat([noise for noise, _ in drawn])
    assert torch.equal(noise, randomness.noises("couple", randomness.keys_of(7, 5, 20), (2, 3)))
    labels = torch.cat([conditions["label"] for _, conditions in drawn])
    assert torch.equal(
        labels, randomness.labels("couple", randomness.keys_of(7, 5, 20), (0.1, 0.2, 0.3, 0.4))
    )


def test_without_classes_there_are_no_conditions():
    ((noise, conditions),) = draws(
        "search", 0, range(2), shape=(1,), law=GAUSSIAN, conditions=Conditions(), batch=2, device="meta"
    )
    assert conditions == {}
    assert noise.device.type == "meta"
