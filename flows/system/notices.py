"""One message about a failed run: which stage, which error, what to do, and the command that continues."""

import logging
import os

import httpx

URL = "FEWSTEP_NOTIFY_URL"
SECONDS = 5


def message(problems: dict[str, str], mistakes: bool, command: str, without_server: str | None) -> str:
    """Return the message.

    Args:
        problems: What each failed stage reported last.
        mistakes: Whether the user has to change something; otherwise retries failed as well.
        command: The command that continues.
        without_server: The same without Prefect, if there is such a command.
    """
    advice = (
        "Fix that, then continue from there"
        if mistakes
        else "Retries failed as well; the run's log has more. Continue from there"
    )
    lines = ["\n".join(problems.values()), f"Failed: {', '.join(problems)}. {advice}:", f"    {command}"]
    if without_server:
        lines += ["or, without Prefect:", f"    {without_server}"]
    return "\n".join(lines)


def send(text: str) -> str | None:
    """Post a text to FEWSTEP_NOTIFY_URL, if that is set; return why it was not delivered, else None.

    The address is a secret, since whoever has it can post. So no message holds it, nor the text of an error.
    """
    if not (url := os.environ.get(URL)):
        return None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it logs the address of each request
    try:
        httpx.post(url, json={"text": text}, timeout=SECONDS).raise_for_status()
    except httpx.HTTPStatusError as error:
        return f"it answers {error.response.status_code} {error.response.reason_phrase}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return None
