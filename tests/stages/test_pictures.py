import torch

from stages._pictures import of_all


def test_a_sheet_shows_samples_from_all_over_the_data():
    for images in (12, 13, 1347):
        data = torch.arange(images).float()[:, None, None, None].expand(-1, 1, 8, 8)
        shown = of_all(data)[:, 0, 0, 0]
        assert len(shown) == 12
        assert shown[0] == 0
        assert shown[-1] > images * 0.8
    assert len(of_all(torch.zeros(5, 3, 8, 8))) == 5
    assert len(of_all(torch.zeros(1200, 2))) == 500
