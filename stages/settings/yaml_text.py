"""YAML as DVC reads it: of version 1.2, by the same parser, where most tools read version 1.1.

What the two versions take for different values is refused, whichever tool looks at the file next, but for
numbers such as 3e-5: version 1.1 wants a point and a sign in them, and such a text is never meant. What is
written here reads the same in both.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from ruamel.yaml import YAML, YAMLError

from fewstep.errors import UserError

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
SCIENTIFIC = re.compile(r"[-+]?[0-9]+\.?[0-9]*[eE][-+]?[0-9]+$")
UNREADABLE = object()
WORD = re.compile(r"[A-Za-z][\w /.-]*")


class OldReader(FAST):  # type: ignore[misc, valid-type]  # which of two classes it is, only a run knows
    """Reads version 1.1, and scientific numbers without a point or a sign."""


OldReader.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+.0123456789"))


class Writer(yaml.SafeDumper):
    """Quotes whatever either version might take for a number, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that occurs twice twice."""
        return True


def _quoted(writer: Writer, text: str) -> yaml.ScalarNode:
    style = None if WORD.fullmatch(text) else '"'
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style)


Writer.add_representer(str, _quoted)


def read(text: str, what: str) -> Any:
    """Return the value that `text` holds; `what` names it in messages.

    Raises:
        UserError: if it is no YAML, holds a key twice, or is of another value in version 1.1.
    """
    try:
        value = YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        raise UserError(f"{what} is no valid YAML: {_told(error)}") from None
    try:
        old = yaml.load(text, OldReader)
    except yaml.YAMLError:
        old = UNREADABLE
    try:
        same = _same(value, old)
    except RecursionError:
        raise UserError(f"{what} is no valid YAML: an anchor holds itself") from None
    if not same:
        lines = list(_ambiguous(text)) or ["write it without tags, anchors and `<<`"]
        raise UserError(
            "\n".join(f"{what}: {line}" for line in lines)
            + f"\n{what}: YAML 1.2, which DVC reads, and YAML 1.1 take this for different values"
        )
    return value


def write(tree: Any) -> str:
    """Return the text of a file that `read` reads back."""
    return yaml.dump(tree, Dumper=Writer, sort_keys=False, allow_unicode=True)


def written(value: Any) -> str:
    """Return a value on one line, as one may write it in a file or after an `=`."""
    text = yaml.dump(value, Dumper=Writer, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def shown(value: Any) -> str:
    """Return a value for a message: as YAML has it, but a text always in quotes."""
    try:
        return repr(value) if isinstance(value, str) else written(value)
    except yaml.YAMLError:  # of a type that no file holds
        return repr(value)


def _told(error: Exception) -> str:
    """Say what the parser found, and in which line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else str(error)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return {(type(key), key) for key in one} == {(type(key), key) for key in other} and all(
            _same(one[key], other[key]) for key in one
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return repr(one) == repr(other)  # nan is no other value than nan


def _ambiguous(text: str) -> Iterator[str]:
    """Yield for each word that is read in two ways where it stands, the readings, and what to write."""
    try:
        words: list[Any] = [e for e in yaml.parse(text, OldReader) if isinstance(e, yaml.ScalarEvent)]
    except yaml.YAMLError:
        return
    for word in words:
        if not word.style:  # and so not in quotes
            readings = [_one(word.value, YAML(typ="safe").load), _one(word.value, _old)]
            if not _same(*readings):
                values = [written(each) for each in readings if not isinstance(each, str)]
                spellings = [*values, f"'{word.value}' for the text"]
                where = f"line {word.start_mark.line + 1}: " if "\n" in text.strip() else ""
                yield f"{where}{word.value} is ambiguous; write {' or '.join(dict.fromkeys(spellings))}"


def _old(text: str) -> Any:
    return yaml.load(text, OldReader)


def _one(text: str, reader: Any) -> Any:
    try:
        return reader(text)
    except (YAMLError, yaml.YAMLError, ValueError):
        return text
