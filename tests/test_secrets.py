"""What counts as a secret, and that nothing which shows or copies gives one away."""

import logging
import pickle

import pytest

from fewstep import secrets
from fewstep.errors import UserError
from flows.dvc import commands, repo
from flows.dvc.failures import StageError
from flows.system import notices, processes
from stages.settings import checks
from stages.settings.params import Params

HOOK = "https://chat.example/hooks/T0/B0/hush-hush"
SECRET = {
    "AWS_SECRET_ACCESS_KEY": "hush-hush",
    "FEWSTEP_NOTIFY_URL": HOOK,
    "FEWSTEP_SHARDS": "https://store.example/shards?sv=1&sig=hush-hush",
    "MLFLOW_TRACKING_PASSWORD": "hush-hush",
    "MLFLOW_TRACKING_URI": "http://me:hush-hush@tracker.example",
    "PREFECT_API_AUTH_STRING": "me:hush-hush",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:hush-hush@db/prefect",
    "RAY_AUTH_TOKEN": "hush-hush",
    "WANDB_API_KEY": "hush-hush",
}
OPEN = {
    "FEWSTEP_SHARDS": "s3://bucket/shards",
    "MLFLOW_TRACKING_URI": "http://tracker.example:5000",
    "FEWSTEP_WORKERS": "3",
    "AWS_DEFAULT_REGION": "us-east-1",
    "PYTHONPATH": "/me@home/src",
}


@pytest.fixture
def told(monkeypatch):
    """The secrets, in the environment."""
    for name, value in SECRET.items():
        monkeypatch.setenv(name, value)
    return SECRET


@pytest.mark.parametrize("name", SECRET)
def test_a_variable_is_a_secret_by_its_name_or_its_address(name):
    assert secrets.is_secret(name, SECRET[name])
    assert secrets.without_secrets({name: SECRET[name]}) == {}


def test_variables_that_are_no_secrets_are_passed_on():
    assert secrets.without_secrets(OPEN) == OPEN


@pytest.mark.parametrize("secret", ["user:hunter2@", "user:hunt@er2@", "token@", ""])
def test_texts_lose_the_passwords_of_their_addresses(secret):
    text = f"cannot reach http://{secret}host:5000/api?stage=use@one, or psql+x://{secret}db"
    assert secrets.scrub(text) == "cannot reach http://host:5000/api?stage=use@one, or psql+x://db"


def test_texts_lose_the_signatures_of_their_addresses():
    text = "no access to https://store/x?X-Amz-Signature=abc%2F1&X-Amz-Date=3, nor https://store/y?sig=9"
    found = "no access to https://store/x?X-Amz-Signature=***&X-Amz-Date=3, nor https://store/y?sig=***"
    assert secrets.scrub(text) == found


@pytest.mark.parametrize("name", SECRET)
def test_no_error_tells_the_value_of_a_secret_variable(told, name):
    for error in (UserError(f"{told[name]} is wrong"), StageError("a", f"a: {told[name]}", transient=True)):
        assert "hush" not in str(error)
        assert "wrong" in str(error) or "a: " in str(error)
    assert "hush" not in str(pickle.loads(pickle.dumps(UserError(told[name]))))


def test_no_log_of_a_run_tells_what_a_child_prints_of_its_secrets(told, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(processes, "run", lambda command, hear, **_: hear(f"connecting to {HOOK}") or 0)
    commands.run("a", tmp_path, ["push"], heard.append)
    assert heard == ["connecting to ***"]


def test_no_log_tells_where_notices_go(told, monkeypatch, caplog):
    monkeypatch.setenv("FEWSTEP_NOTIFY_URL", "http://127.0.0.1:9/hush-hush")
    with caplog.at_level(logging.INFO):
        assert notices.send("it failed") == "ConnectError"
        logging.getLogger("httpx").info('HTTP Request: POST %s "HTTP/1.1 200 OK"', HOOK)  # as httpx does
    assert "hush" not in caplog.text


@pytest.mark.parametrize("source", ["s3://me:hush@bucket/x", "https://store/x.npz?sig=hush"])
def test_settings_hold_no_secret_for_they_are_shown_everywhere(source):
    raw = Params.read().raw
    raw["prepare"]["source"] = source
    with pytest.raises(UserError, match=r"prepare\.source holds a secret.*the environment") as refused:
        checks.check(Params(raw))
    assert "hush" not in str(refused.value)


def test_the_secrets_of_a_remote_are_for_their_owner_alone_in_a_clone_too(tmp_path):
    for name in ("checkout", "clone"):
        (tmp_path / name / ".dvc").mkdir(parents=True)
    own = tmp_path / "checkout/.dvc/config.local"
    own.write_text("['remote \"store\"']\n    url = s3://bucket\n    secret_access_key = hush\n")
    own.chmod(0o600)
    for _ in range(2):  # made, and renewed
        repo.share(tmp_path / "checkout", tmp_path / "clone")
        copied = tmp_path / "clone/.dvc/config.local"
        assert "hush" in copied.read_text()
        assert copied.stat().st_mode & 0o777 == 0o600
