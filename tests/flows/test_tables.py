"""A new home of Prefect begins with the tables of the installation, and one that has a database keeps it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import prefect
import pytest

from flows.server import door, login, tables

MIGRATIONS = Path(prefect.__file__).parent / "server/database/_migrations/versions/sqlite"


def rows(file, question):
    with closing(sqlite3.connect(file)) as database:
        return [row[0] for row in database.execute(question)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "HOME", tmp_path)
    monkeypatch.setenv(login.SERVER, "somebody:secret")
    return tmp_path


def test_a_server_begins_with_the_newest_tables_and_nothing_in_them(home):
    door.app()
    file = home / tables.FILE
    names = rows(file, "select name from sqlite_master where type = 'table'")
    assert {"flow_run", "task_run", "artifact"} <= set(names)
    counts = {name: rows(file, f'select count(*) from "{name}"')[0] for name in names}
    assert {name for name, count in counts.items() if count} == {"alembic_version"}
    (version,) = rows(file, "select version_num from alembic_version")
    assert f'revision = "{version}"' in max(MIGRATIONS.glob("*.py")).read_text()
    assert [path.name for path in home.iterdir()] == [tables.FILE]


def test_a_database_that_is_there_stays(home):
    (home / tables.FILE).write_bytes(b"of an earlier run")
    door.app()
    assert (home / tables.FILE).read_bytes() == b"of an earlier run"


def test_without_tables_of_the_installation_prefect_makes_them(home, monkeypatch):
    monkeypatch.setattr(tables, "MADE", home / "none")
    door.app()
    assert not (home / tables.FILE).exists()


def test_of_two_servers_that_start_at_once_one_gives_the_tables(home, monkeypatch):
    def first(source, folder):
        (home / tables.FILE).write_bytes(b"of the other")
        return copy(source, folder)

    copy = shutil.copy
    monkeypatch.setattr(shutil, "copy", first)
    tables.give(home)
    assert (home / tables.FILE).read_bytes() == b"of the other"
