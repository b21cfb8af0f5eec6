"""An S3 server for the tests of stores."""

import pytest
import s3


@pytest.fixture(scope="session")
def s3_address():
    with s3.server() as address:
        yield address


@pytest.fixture
def bucket(s3_address, monkeypatch, request):
    """The URL of an empty bucket, and an environment that gives access to it."""
    s3.use(monkeypatch, s3_address)
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())[:60].strip(
        "-"
    )
    return s3.make_bucket(s3_address, name)
