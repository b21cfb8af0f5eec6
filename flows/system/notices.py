"""One message on a failed run: which stage, which error, what to do, and the command that goes on."""

import json
import os
from http import HTTPStatus
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = "FEWSTEP_NOTIFY_URL"
SECONDS = 5


def tell(problems: dict[str, str], mistakes: bool, command: str, without_server: str | None) -> str:
    """Return the message.

    Args:
        problems: What each failed stage said last.
        mistakes: Whether they are for the user to mend; else several tries ended so.
        command: What goes on.
        without_server: The same without Prefect, if there is such a command.
    """
    advice = (
        "Mend that, then go on where it stopped"
        if mistakes
        else "Several tries ended so, and the run's log has more. Go on where it stopped"
    )
    lines = ["\n".join(problems.values()), f"Failed: {', '.join(problems)}. {advice}:", f"    {command}"]
    if without_server:
        lines += ["or, without Prefect:", f"    {without_server}"]
    return "\n".join(lines)


def send(text: str) -> str | None:
    """Post a text to FEWSTEP_NOTIFY_URL, if that is set; return why it was not delivered, else None.

    The address is a secret: whoever has it can post. It is in no message, so the error's own words are not.
    """
    if not (url := os.environ.get(URL)):
        return None
    try:
        body = json.dumps({"text": text}).encode()
        request = Request(url, data=body, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=SECONDS):
            return None
    except HTTPError as error:
        return f"it answers {error.code} {HTTPStatus(error.code).phrase}"
    except (OSError, ValueError) as error:
        return type(error).__name__
