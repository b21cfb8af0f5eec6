import torch
from fake_project import Project

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


def test_the_paths_of_published_pictures_are_printed(tmp_path):
    project = Project(tmp_path / "project")
    shown = "make: picture artifacts/make/sheet.png"
    assert shown not in project.sh("python -m stages.make")
    project.edit("stages/make.py", 'job.scratch / "sheet.png"', 'job.out / "sheet.png"')
    project.edit("stages/make.py", "VERSION = 1", "VERSION = 2")
    assert shown in project.sh("python -m stages.make").splitlines()
    assert (project.folder / "artifacts/make/sheet.png").exists()
