import pytest
import torch
from fake_project import Project
from PIL import Image

from stages.figures.sample_grid import (
    GAP,
    MARGIN,
    TEXT,
    as_tiles,
    draw_sample_grid,
    samples_shown,
    spread_over,
)


def test_a_sample_grid_shows_samples_from_all_over_the_data():
    for images in (12, 13, 23, 1347):
        data = torch.arange(images).float()[:, None, None, None].expand(-1, 1, 8, 8)
        shown = spread_over(data)[:, 0, 0, 0]
        assert len(shown) == 12
        assert shown[0] == 0
        assert shown.diff().min() >= images // 12
        assert shown[-1] >= images * 11 // 12
    assert len(spread_over(torch.zeros(5, 3, 8, 8))) == 5
    assert len(spread_over(torch.zeros(1200, 2))) == 500


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((1, 8, 8), (48, 48)),
        ((3, 96, 96), (96, 96)),
        ((3, 512, 512), (128, 128)),
        ((3, 1024, 256), (32, 128)),
    ],
)
def test_a_grid_is_of_a_size_to_look_at(tmp_path, shape, tile):
    images = torch.linspace(-1, 1, 2).view(2, 1, 1, 1).expand(2, *shape)
    draw_sample_grid(tmp_path / "x.png", [("a", images), ("b", images)])
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] - 2 * (tile[0] + GAP) < 60  # the label and margins
        assert picture.size[1] == 2 * MARGIN + 2 * (tile[1] + GAP) - GAP
        assert picture.convert("L").getextrema() == (0, 255)


def test_texts_of_columns_stand_below_the_images(tmp_path):
    images = torch.zeros(2, 3, 96, 96)
    draw_sample_grid(tmp_path / "plain.png", [("a", images)])
    draw_sample_grid(tmp_path / "told.png", [("a", images)], ["a\ncat", "a dog", "of no column"])
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "told.png") as told:
        assert told.size == (plain.size[0], plain.size[1] + 2 * (TEXT + GAP))
        assert told.crop((0, 0, *plain.size)).tobytes() == plain.tobytes()
        for top in (plain.size[1], plain.size[1] + TEXT + GAP):
            line = told.crop((0, top, told.size[0], top + TEXT + GAP)).convert("L")
            assert line.getextrema()[0] < 100


def test_large_images_are_averaged_and_fewer_are_shown():
    board = (torch.arange(512)[:, None] + torch.arange(512)).remainder(2).float() * 2 - 1
    assert set(as_tiles(board.expand(1, 1, -1, -1)).flatten().tolist()) == {128}
    assert [samples_shown((3, side, side)) for side in (8, 128, 256, 512, 2048)] == [12, 12, 6, 4, 4]
    assert len(spread_over(torch.zeros(20, 1, 1, 512))) == 4


def test_the_paths_of_published_pictures_are_printed(tmp_path):
    project = Project(tmp_path / "project")
    shown = "make: picture artifacts/make/sheet.png"
    assert shown not in project.sh("python -m stages.make")
    project.edit("stages/make.py", 'job.scratch / "sheet.png"', 'job.out / "sheet.png"')
    project.edit("stages/make.py", "VERSION = 1", "VERSION = 2")
    assert shown in project.sh("python -m stages.make").splitlines()
    assert (project.folder / "artifacts/make/sheet.png").exists()
