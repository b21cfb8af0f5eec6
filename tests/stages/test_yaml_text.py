"""One dialect of YAML: what readers take for different values is refused, and not written."""

import pytest
import yaml
from dvc.utils.serialize import parse_yaml

from fewstep.errors import UserError
from stages.settings import yaml_text


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "null"), (True, "true"), ("a", "'a'"), ([1, "a"], "[1, a]"), ((), "[]"), (object, repr(object))],
)
def test_a_message_shows_a_value_as_yaml_has_it(value, told):
    assert yaml_text.shown(value) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nfe: 010", "010 is ambiguous; write 10 or 8 or '010' for the text"),
        ("nfe: 08", "08 is ambiguous; write 8 or '08' for the text"),
        ("nfe: 0o10", "0o10 is ambiguous; write 8 or '0o10' for the text"),
        ("rate: 1_0e3", "1_0e3 is ambiguous; write 10000.0 or '1_0e3' for the text"),
        ("time: 12:30:45", "12:30:45 is ambiguous; write 45045 or '12:30:45' for the text"),
        ("nesterov: yes", "yes is ambiguous; write true or 'yes' for the text"),
        ("nesterov: [Off]", "Off is ambiguous; write false or 'Off' for the text"),
        ("a: 1\nsearch: {on: 3}", "line 2: on is ambiguous; write true or 'on' for the text"),
        ("%YAML 1.1\n---\nnfe: 010", "line 3: 010 is ambiguous; write 10 or 8 or '010' for the text"),
        ("? [1, 2]\n: 3", "write it without tags, anchors and `<<`"),
        ("a: 1\nb: 2\na: 3", 'no valid YAML: line 3: found duplicate key "a"'),
        ("a: 2026-13-01", "no valid YAML: month must be in"),
        ("a: &a [*a]", "no valid YAML: an anchor holds itself"),
        ("a: =", "no valid YAML: line 1: could not determine a constructor"),
    ],
)
def test_values_that_the_versions_read_differently_are_refused(text, told):
    with pytest.raises(UserError) as caught:
        yaml_text.read(text, "params.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("params.yaml")


def test_each_ambiguous_word_is_reported():
    with pytest.raises(UserError) as caught:
        yaml_text.read("a: 010\nb: '010'\nc: 10\nd: yes", "params.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(" is ")[0] for line in lines[:2]] == [
        "params.yaml: line 1: 010",
        "params.yaml: line 4: yes",
    ]


@pytest.mark.parametrize("number", ["3e-5", "1e3", "1E5", "+1e5", "-2.5e3", "1.0e+3"])
def test_a_scientific_number_is_one_as_it_is_for_dvc(number):
    for text in (f"rate: {number}", f"[{number}]", number):
        found = yaml_text.read(text, "--set")
        assert repr(found) == repr(parse_yaml(text, "params.yaml"))
        assert str(float(number)) in str(found)
    assert yaml_text.read(f"'{number}'", "--set") == number


@pytest.mark.parametrize("text", ["12e5x", "e3", "v1e3"])
def test_a_word_with_such_a_number_in_it_is_a_word(text):
    assert yaml_text.read(text, "--set") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{a: 1.0e-4, b: 10, c: 0x1F, d: .5, e: -3}", {"a": 1e-4, "b": 10, "c": 31, "d": 0.5, "e": -3}),
        ("a: '010'\nb: \"yes\"", {"a": "010", "b": "yes"}),
        (
            "one: &one {n: 3}\ntwo: {<<: *one, m: 2.0}",
            {"one": {"n": 3}, "two": {"n": 3, "m": 2.0}},
        ),
        ("\ufeffa: b\r\n", {"a": "b"}),
        ("", None),
    ],
)
def test_values_that_both_versions_read_alike_are_accepted(text, value):
    assert yaml_text.read(text, "params.yaml") == value


VALUES = [
    *(
        1e-05,
        1e20,
        -0.0,
        float("inf"),
        True,
        None,
        3,
        "",
        "1e3",
        "010",
        "yes",
        "on",
        "null",
        "~",
        "1:30",
        "0o7",
    ),
    *(
        "a b",
        "a: b",
        "a #b",
        "- a",
        "two\nlines",
        "trailing ",
        "\u00fc",
        "a\u2028b\x85",
        "a" * 300,
        "a " * 99,
    ),
    *([1e-4, {"a": "1:30"}], {"1e3": {"steps": [1, 2]}}, {"twice": [3] * 2}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_written_reads_the_same_everywhere(value):
    for text in (yaml_text.write({"a": value}), f"a: {yaml_text.written(value)}"):
        found = [yaml_text.read(text, "it"), yaml.safe_load(text), parse_yaml(text, "params.yaml")]
        assert [repr(each) for each in found] == [repr({"a": value})] * 3
    assert "\n" not in yaml_text.written(value)
