import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.system import notices


@pytest.fixture
def hook(monkeypatch):
    """A chat's address that takes what is posted, and answers as told."""
    heard = []

    class Hook(BaseHTTPRequestHandler):
        answer = 200

        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(self.answer)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FEWSTEP_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/secret")
    yield Hook, heard
    server.shutdown()
    server.server_close()


def test_a_text_is_posted_as_chats_take_it(hook):
    assert notices.send("it failed") is None
    assert hook[1] == [{"text": "it failed"}]


def test_a_refused_notice_is_reported_without_the_address(hook, monkeypatch):
    hook[0].answer = 403
    assert notices.send("it failed") == "it answers 403 Forbidden"
    for wrong in ("http://127.0.0.1:9/secret", "secret", "ftp://secret/x"):
        monkeypatch.setenv("FEWSTEP_NOTIFY_URL", wrong)
        problem = notices.send("it failed")
        assert problem
        assert "secret" not in problem


def test_without_an_address_no_notice_is_sent(monkeypatch):
    monkeypatch.delenv("FEWSTEP_NOTIFY_URL", raising=False)
    assert notices.send("it failed") is None


def test_the_message_says_what_failed_and_how_to_go_on():
    text = notices.message({"a": "a: no such file", "b": "b was killed"}, False, "fewstep run", None)
    assert text.splitlines() == [
        "a: no such file",
        "b was killed",
        "Failed: a, b. Retries failed as well; the run's log has more. Continue from there:",
        "    fewstep run",
    ]
