"""Prompts: read from lines and columns, and refused with the place of the mistake."""

import pytest

from fewstep.errors import UserError
from fewstep.prompts import read_captions, read_prompts


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("a.txt", "a cat\n\n  two dogs, running \r\n", None),
        ("a.txt", "\ufeffa cat\ntwo dogs, running", None),
        ("a.csv", 'id,prompt\n1,a cat\n2,"two dogs, running"\n', "prompt"),
        ("a.csv", 'prompt\na cat\n"two dogs, running"', None),
        ("a.tsv", "id\tprompt\n1\ta cat\n2\ttwo dogs, running\n", "prompt"),
        ("a.jsonl", '{"id": 1, "prompt": "a cat"}\n\n{"prompt": "two dogs, running"}\n', "prompt"),
    ],
)
def test_prompts_are_lines_or_a_column(tmp_path, name, content, column):
    (tmp_path / name).write_text(content, newline="")
    assert read_prompts(tmp_path / name, column) == ("a cat", "two dogs, running")


def test_a_quoted_prompt_may_have_lines(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,id\n"a cat\non a mat",1\n')
    assert read_prompts(tmp_path / "a.csv", "prompt") == ("a cat\non a mat",)


@pytest.mark.parametrize(
    ("name", "content", "column", "told"),
    [
        ("a.txt", b"\n \n", None, "a.txt holds no prompts; write one a line"),
        ("a.csv", b"", "prompt", "a.csv holds no prompts"),
        ("a.txt", b"a cat\n\xff", None, "a.txt is not in UTF-8: line 2 holds the byte 0xff"),
        ("a.txt", b"a cat", "prompt", "a.txt is no table, and has no column 'prompt'"),
        ("a.pkl", b"a cat", None, r"a.pkl can't hold prompts: its name must end in \.txt, \.csv"),
        (
            "a.csv",
            b"id,prompt\n1,a cat",
            "promt",
            "a.csv: line 2: unknown column 'promt'; did you mean 'prompt'",
        ),
        ("a.csv", b"id,prompt\n1,a cat", None, "a.csv has the columns id, prompt; name one of them"),
        ("a.csv", b"id,prompt\n1,a cat\n2,", "prompt", "a.csv: line 3 has no text in the column 'prompt'"),
        ("a.csv", b"id,prompt\n1", "prompt", "a.csv: line 2 has no text in the column 'prompt'"),
        ("a.csv", b'prompt\n"a cat', None, "a.csv: line 2 is no row of a table"),
        ("a.jsonl", b'{"prompt": "a cat"}\n{"prompt": 3}', "prompt", "line 2 has no text in the column"),
        ("a.jsonl", b"{prompt: a cat}", "prompt", "a.jsonl: line 1 is no JSON"),
        ("a.jsonl", b'"a cat"', None, "a.jsonl: line 1 must be a mapping of columns to values"),
        ("a.jsonl", b"{}", None, "a.jsonl: line 1: unknown column"),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_place(tmp_path, name, content, column, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_prompts(tmp_path / name, column)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*a\.txt to take prompts from; put it there"):
        read_prompts(tmp_path / "a.txt")


def test_captions_are_found_by_the_name_of_their_file(tmp_path):
    (tmp_path / "a.csv").write_text("file_name,text\nb.png,a cat\na.png,two dogs\n")
    assert read_captions(tmp_path / "a.csv", "text") == {"b.png": "a cat", "a.png": "two dogs"}
    (tmp_path / "a.csv").write_text("file_name,text\nb.png,a cat\nb.png,two dogs\n")
    with pytest.raises(UserError, match=r"a\.csv: line 3 names b\.png again; leave one of its rows"):
        read_captions(tmp_path / "a.csv", "text")
    (tmp_path / "a.csv").write_text("name,text\nb.png,a cat\n")
    with pytest.raises(UserError, match=r"a\.csv: line 2: unknown column 'file_name'"):
        read_captions(tmp_path / "a.csv", "text")
