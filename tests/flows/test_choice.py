import pytest

from fewstep.errors import UserError
from flows.dvc.repo import Stage
from flows.planning import choice
from stages.artifacts import places, timings

STALE = ("changed command",)


def chain(**changed):
    """Stages a, then b@x and b@y, then c; each with what DVC says has changed of it."""
    upstream = {"a": (), "b@x": ("a",), "b@y": ("a",), "c": ("b@x", "b@y")}
    inputs = {"a": ("data",), "b@x": ("out/a",), "b@y": ("out/a",), "c": ("out/b",)}
    outputs = {"a": ("out/a",), "b@x": ("out/b/x",), "b@y": ("out/b/y",), "c": ("out/c",)}
    return {
        name: Stage(
            name=name,
            upstream=upstream[name],
            inputs=inputs[name],
            outputs=outputs[name],
            settings={},
            settings_before={},
            changed=changed.get(name, ()),
            uncached=False,
        )
        for name in upstream
    }


def lost(path):
    return ({"changed outs": {path: "deleted"}},)


def test_without_a_choice_all_stages_are_chosen():
    assert choice.choose(chain(), ()) == dict.fromkeys(("a", "b@x", "b@y", "c"), "unchanged")
    assert choice.choose(chain(**{"b@x": STALE}), ()) == {
        "a": "unchanged",
        "b@x": "run",
        "b@y": "unchanged",
        "c": "run",
    }


def test_start_from_chooses_a_stage_and_what_builds_on_it():
    assert list(choice.choose(chain(), (), start_from="b@y")) == ["b@y", "c"]
    assert list(choice.choose(chain(), (), start_from="b")) == ["b@x", "b@y", "c"]
    assert list(choice.choose(chain(), (), only="b@y")) == ["b@y"]


def test_several_are_chosen_by_commas_though_each_is_needed_by_what_builds_on_the_other():
    stale = chain(**{"b@x": STALE, "b@y": STALE})
    assert choice.choose(stale, (), start_from="b@x,b@y") == dict.fromkeys(("b@x", "b@y", "c"), "run")
    assert list(choice.choose(chain(), (), only="c,a")) == ["a", "c"]
    with pytest.raises(UserError, match="no stage 'd'"):
        choice.choose(chain(), (), only="a,d")


def test_the_chosen_run_by_force_and_others_are_left():
    assert choice.choose(chain(), (), start_from="b@y", force=True) == {"b@y": "run", "c": "run"}


@pytest.mark.parametrize(("start", "culprits"), [("b@x", "a, b@y"), ("c", "a, b@x, b@y")])
def test_what_the_chosen_need_must_be_up_to_date(start, culprits):
    with pytest.raises(
        UserError, match=f"^{start} needs what is not up to date: {culprits}; give --start-from a,"
    ):
        choice.choose(chain(a=STALE), (), start_from=start)
    with pytest.raises(UserError, match=f"^{start} needs"):
        choice.choose(chain(a=STALE), (), only=start)


def test_a_stale_input_of_a_stage_downstream_of_the_chosen_one_is_named():
    with pytest.raises(UserError, match=r"^b@x needs what is not up to date: b@y;"):
        choice.choose(chain(**{"b@y": STALE}), (), start_from="b@x")


def test_outputs_that_are_only_gone_come_back_first():
    missing = chain(
        a=lost("out/a"),
        **{
            "b@x": ({"changed deps": {"out/a": "deleted"}},),
            "b@y": ({"changed deps": {"out/a": "deleted"}},),
        },
    )
    assert choice.choose(missing, (), start_from="b@x") == {
        "a": "restore",
        "b@x": "restore",
        "b@y": "restore",
        "c": "restore",
    }
    edited = chain(a=({"changed outs": {"out/a": "modified"}},))
    assert choice.fates(edited, ())["a"] == "run"


def test_outputs_that_are_nowhere_are_made_again_and_what_needs_them_runs():
    gone = chain(a=({"changed outs": {"out/a": "not in cache"}},))
    assert choice.fates(gone, {"a"}) == dict.fromkeys(gone, "run")
    with pytest.raises(UserError, match=r"^b@x needs what is not up to date: a; give --start-from a,"):
        choice.choose(gone, {"a"}, only="b@x")


def test_outputs_that_workers_made_and_that_are_not_here_are_restored():
    elsewhere = ({"changed outs": {"out/a": "not in cache"}},)
    assert choice.choose(chain(a=elsewhere), (), start_from="c")["a"] == "restore"


def test_an_unknown_stage_is_reported_with_the_nearest():
    with pytest.raises(UserError, match=r"no stage 'b@z'; did you mean 'b@[xy]'\?"):
        choice.choose(chain(), (), start_from="b@z")
    with pytest.raises(UserError, match=r"--start-from \(a\) or --only \(c\), not both"):
        choice.choose(chain(), (), start_from="a", only="c")


def test_a_change_of_files_that_may_not_be_read_is_told_with_what_it_takes():
    data = ({"changed deps": {"data": "modified"}},)
    with pytest.raises(
        UserError, match=r"not up to date: a \(files under data/ have .*`dvc repro a` takes seconds"
    ):
        choice.choose(chain(a=data), (), only="b@x")
    with pytest.raises(UserError, match=r"not up to date: a; give --start-from a"):
        choice.choose(chain(a=(*data, "changed command")), (), only="b@x")


def test_the_plan_tells_what_runs_and_how_long_that_took(tmp_path):
    timings.note(tmp_path / places.STAGE_SECONDS, "b@x", 4000)
    timings.note(tmp_path / places.STAGE_SECONDS, "a", 7.26)
    timings.note(tmp_path / places.STAGE_SECONDS, "b@x", 3900)  # the last counts
    fates = choice.choose(chain(**{"b@x": STALE}), ())
    assert choice.plan(tmp_path, fates, force=False).splitlines() == [
        "a is up to date",
        "b@x runs, unless DVC's cache has this very result (1 h 5 min the last time)",
        "b@y is up to date",
        "c runs, unless DVC's cache has this very result",
        "2 of 4 stages run: 1 h 5 min one after the other, and 1 that no run here has timed",
    ]
    forced = choice.plan(tmp_path, fates, force=True).splitlines()
    assert forced[1] == "b@x runs from its beginning (1 h 5 min the last time)"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min"), (150, "2 min"), (7260, "2 h 1 min")]
)
def test_durations_are_printed_in_readable_units(seconds, words):
    assert choice.readable(seconds) == words
