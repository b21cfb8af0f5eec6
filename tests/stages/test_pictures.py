import torch

from stages.figures.sample_grid import spread_over


def test_a_sheet_shows_samples_from_all_over_the_data():
    for images in (12, 13, 23, 1347):
        data = torch.arange(images).float()[:, None, None, None].expand(-1, 1, 8, 8)
        shown = spread_over(data)[:, 0, 0, 0]
        assert len(shown) == 12
        assert shown[0] == 0
        assert shown.diff().min() >= images // 12
        assert shown[-1] >= images * 11 // 12
    assert len(spread_over(torch.zeros(5, 3, 8, 8))) == 5
    assert len(spread_over(torch.zeros(1200, 2))) == 500
