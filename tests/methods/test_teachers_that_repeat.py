"""Every training refuses a teacher that gives other samples of the same noise each time."""

from dataclasses import replace

import pytest
from recorded import run, student
from test_contract import student_of

from fewstep import registry
from fewstep.errors import UserError
from fewstep.methods.flow_guided import FlowGuided
from fewstep.methods.phased import Phased
from fewstep.methods.refiner import Refiner

BESIDES = {"phased": Phased(learn_from="data")}
ASKING = [
    method
    for name in registry.available("fewstep.methods")
    if (method := BESIDES.get(name) or registry.find("fewstep.methods", name)()).needs.teacher
]


def test_those_that_must_have_a_flow_are_among_them():
    assert {Phased, FlowGuided, Refiner} <= set(map(type, ASKING))


@pytest.mark.parametrize("method", ASKING, ids=lambda method: type(method).__name__)
def test_a_teacher_that_is_not_deterministic_is_refused(tmp_path, method):
    teacher = student()
    teacher.config = replace(teacher.config, deterministic=False)
    with pytest.raises(UserError, match="the teacher is not deterministic: the same noise gives"):
        run(tmp_path, method=method, model=student_of(method), load=lambda name: teacher)
