"""What prepare takes of data/, and what it refuses to make of it."""

import pytest

from fewstep.errors import UserError
from fewstep.progress import SILENT
from stages import prepare
from stages._runner import Job


@pytest.mark.parametrize(("count", "held_out"), [(100, 0.001), (8, 0.25)])
def test_a_split_that_no_metric_could_use_is_refused_before_anything_is_made(tmp_path, count, held_out):
    config = prepare.Config(source="two_moons", source_options={"count": count}, held_out=held_out)
    job = Job(
        stage="prepare",
        key=None,
        seed=0,
        inputs={"data": tmp_path / "data"},
        out=tmp_path / "out",
        scratch=tmp_path / "scratch",
        progress=SILENT,
        picture=lambda name, file: None,
    )
    with pytest.raises(UserError, match=rf"held_out {held_out} of {count} .*but 7 and 2 are needed"):
        prepare.run(config, job)
    assert not job.out.exists()
