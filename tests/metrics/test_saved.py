import io

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.metrics.saved import as_saved, outside


def test_saved_images_are_what_a_png_gives_back():
    images = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) * 1.5
    file = io.BytesIO()
    codes = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    Image.fromarray(codes.numpy()).save(file, "PNG")
    back = torch.from_numpy(np.array(Image.open(file))).float() / 127.5 - 1
    torch.testing.assert_close(as_saved(images), back)


def test_saving_twice_changes_nothing():
    images = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    once = as_saved(images)
    assert torch.equal(as_saved(once), once)


def test_outside_counts_what_rounding_does_not_bring_back():
    assert outside(torch.tensor([-1.0, 1.0, 0.0, 1.003])) == 0
    assert outside(torch.tensor([-1.1, 1.0, 0.0, 1.2])) == pytest.approx(0.5)
