"""What is a secret: variables by their names, parts of addresses. All that shows or copies text asks here."""

import os
import re
from collections.abc import Mapping

NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|AUTH_STRING|LOGIN)$|NOTIFY", re.IGNORECASE)
"""Of variables. The address that notices go to is one: whoever has it can post there."""
LOGIN = re.compile(r"(\w+://)[^/\s]+@")
SIGNED = re.compile(
    r"([?&][\w.%-]*(?:sig|signature|token|key|password|secret|credential)=)[^&#\s'\"]+", re.IGNORECASE
)
SHORTEST = 6  # a shorter value is also a part of ordinary words


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable holds a secret: by its name, or as an address that gives access."""
    return bool(NAME.search(name)) or holds_secret(value)


def holds_secret(text: str) -> bool:
    """Return whether a text has an address that gives access: with a password, or signed."""
    return bool(LOGIN.search(text) or SIGNED.search(text))


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those variables that hold no secret."""
    return {name: value for name, value in variables.items() if not is_secret(name, value)}


def scrub(text: str) -> str:
    """Take out of a text the values of secret variables, and what in addresses is secret."""
    values = [value for name, value in os.environ.items() if NAME.search(name) and len(value) >= SHORTEST]
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return SIGNED.sub(r"\1***", LOGIN.sub(r"\1", text))
