"""Prefect's server with a login, a host check and an origin check.

Prefect itself answers under any host name and lets pages of any origin read its answers. So a page in a
browser could start runs, by a request of its own or by a host name that it points here. The program is
`python -m uvicorn --factory flows.server.door:app`.
"""

import os

from fastapi import FastAPI
from prefect.server.api.server import create_app
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fewstep.errors import UserError
from flows import HOME
from flows.server import login, tables

NAMES = "FEWSTEP_SERVER_NAMES"
"""The variable with further names by which the server may be asked, separated by commas."""
LOCAL = ("localhost", "127.0.0.1")
ENTRANCE = "/enter"

# A browser keeps what follows the # to itself. The page puts it where Prefect's pages look for a login, and
# goes on to the page whose path follows the entrance.
PAGE = f"""<!doctype html><title>fewstep</title><script>
if (location.hash) localStorage.setItem("prefect-password", btoa(decodeURIComponent(location.hash.slice(1))))
location.replace(location.pathname.slice({len(ENTRANCE)}).replace(/^[/\\\\]*/, "/"))
</script>"""


def app() -> FastAPI:
    """Return the server.

    Raises:
        UserError: It has no login.
    """
    if not os.environ.get(login.SERVER):
        raise UserError(
            f"{login.SERVER} is not set, so whoever reaches the server could run code; set it to "
            "name:secret, or start the server with `fewstep ui`, which does"
        )
    tables.give(HOME)
    server = create_app(final=True)
    server.router.routes.insert(0, Route(f"{ENTRANCE}{{path:path}}", entrance))
    server.add_middleware(OwnPages)
    server.add_middleware(TrustedHostMiddleware, allowed_hosts=names(), www_redirect=False)
    return server


def names() -> list[str]:
    """Return the names by which the server may be asked."""
    return [*LOCAL, *filter(None, os.environ.get(NAMES, "").split(","))]


class OwnPages:
    """Refuses what pages of other addresses ask; a browser names in `Origin` where the page is from."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        answer = self.app
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                answer = PlainTextResponse("This is a page of another address.", status_code=403)
        await answer(scope, receive, send)


async def entrance(request: Request) -> HTMLResponse:
    """Return the page that logs a browser in."""
    return HTMLResponse(PAGE, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
