"""Which students settings let a monitor watch, and with which numbers of steps."""

import pytest
from test_across_sections import ANY_STEP, changed

from fewstep.errors import UserError
from stages.settings import checks
from stages.settings.params import Params


@pytest.mark.parametrize("monitor", [{}, {"nfe": [1, 2]}])
def test_a_student_of_any_number_may_be_watched(monitor):
    checks.check(Params(changed(**ANY_STEP | {"distill__any_at_step__monitor": monitor})))


def test_a_student_of_a_grid_is_watched_on_that():
    told = r"boss-4\.monitor\.nfe is for a student of any nfe; one of 4 is looked at on its own grid"
    with pytest.raises(UserError, match=told):
        checks.check(Params(changed(distill__boss_at_4__monitor={"nfe": [1]})))
