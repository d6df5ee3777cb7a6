"""The database: migrations make what the tables say, and what cannot be used is said in one line."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from center.database import Database, migration_config
from center.errors import DatabaseFull, DatabaseUnusable
from center.tables import metadata


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'center.db'}"


def test_an_empty_database_gets_every_table(tmp_path: Path) -> None:
    Database.open(url(tmp_path)).close()
    engine = create_engine(url(tmp_path))
    assert set(inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    engine.dispose()


def test_the_migrated_schema_is_the_one_that_the_code_expects(tmp_path: Path) -> None:
    Database.open(url(tmp_path)).close()
    engine = create_engine(url(tmp_path))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_database_of_the_first_version_learns_what_its_channels_have_named(tmp_path: Path) -> None:
    engine = create_engine(url(tmp_path))
    config = migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO models VALUES ('m', 1)"))
        for revision in ("a", "b"):
            connection.execute(text(f"INSERT INTO revisions VALUES ('m', '{revision}', 1, 1, 1, '')"))
        connection.execute(text("INSERT INTO channels VALUES ('m', 'stable', 'a', 4, 1)"))
        for sequence, action, details in (
            (1, "REVISION_PUBLISHED", '{"file_bytes": "1"}'),
            (2, "CHANNEL_MOVED", '{"revision": "a", "previous_revision": ""}'),
            (3, "CHANNEL_MOVED", '{"revision": "b", "previous_revision": "a"}'),
            (4, "CHANNEL_MOVED", '{"revision": "a", "previous_revision": "b"}'),
        ):
            statement = (
                "INSERT INTO audit VALUES (:number, 1, '', :action, 'models/m/channels/stable', :details, '', '')"
            )
            connection.execute(text(statement), {"number": sequence, "action": action, "details": details})
    engine.dispose()
    database = Database.open(url(tmp_path))
    with database.reading() as connection:
        named = connection.execute(text("SELECT channel, revision, version FROM channel_history ORDER BY version"))
        assert [tuple(row) for row in named] == [("stable", "b", 3), ("stable", "a", 4)]
        (identifier,) = connection.execute(text("SELECT id FROM catalog_id")).scalars()
        assert len(identifier) == 36
    database.close()


def test_opening_twice_keeps_what_is_there(tmp_path: Path) -> None:
    first = Database.open(url(tmp_path))
    with first.writing() as connection:
        connection.execute(text("INSERT INTO models VALUES ('m', 1)"))
    first.close()
    second = Database.open(url(tmp_path))
    with second.reading() as connection:
        assert connection.execute(text("SELECT model FROM models")).scalars().all() == ["m"]
    second.close()


def test_a_block_that_raises_writes_nothing(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))

    def failing() -> None:
        with database.writing() as connection:
            connection.execute(text("INSERT INTO models VALUES ('m', 1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM models")).scalar_one() == 0
    database.close()


def test_a_commit_is_durable_and_references_are_checked(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))
    with database.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(text("INSERT INTO revisions VALUES ('nobody', 'r', 1, 1, 1, '')"))
    database.close()


def test_a_database_of_a_newer_deltaic_is_left_alone(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(DatabaseUnusable, match="9999, which is newer than this software"):
        Database.open(url(tmp_path))


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "center.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        Database.open(url(tmp_path))
    assert (tmp_path / "center.db").read_bytes() == b"not a database" * 100


@pytest.mark.parametrize("bad", ["nonsense", "nosuch://x", "sqlite:////nowhere/at/all/center.db"])
def test_an_address_that_leads_nowhere_is_said_in_one_line(bad: str) -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        Database.open(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        "sqlite:////nowhere/at/all/center.db?password=s3cret",
        "sqlite:////nowhere/at/all/center.db?timeout=s3cret",
        "sqlite://me:s3cret@host/center.db",
        "nosuch://me:s3cret@host/center",
        "postgresql+nosuch://me:s3cret@host/center",
        "postgresql://me:s3cret@host:port/center",
        "nonsense s3cret",
    ],
)
def test_a_refused_address_keeps_its_secrets(bad: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        Database.open(bad)
    said = capfd.readouterr()
    assert "s3cret" not in str(caught.value) + said.out + said.err
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))

    def filling() -> None:
        with database.writing() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
            connection.execute(text("INSERT INTO models VALUES (:model, 1)"), {"model": "m" * 1_000_000})

    with pytest.raises(DatabaseFull):
        filling()
    database.close()


def test_a_disk_that_takes_no_writes_is_said_with_advice(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))

    def writing() -> None:
        with database.writing() as connection:
            connection.execute(text("PRAGMA query_only = 1"))
            connection.execute(text("INSERT INTO models VALUES ('m', 1)"))

    with pytest.raises(DatabaseUnusable, match="check the disk"):
        writing()
    database.close()


def test_a_damaged_file_is_refused_at_start(tmp_path: Path) -> None:
    database = Database.open(url(tmp_path))
    with database.reading() as connection:
        size = connection.execute(text("PRAGMA page_size")).scalar_one()
    database.close()
    whole = (tmp_path / "center.db").read_bytes()
    (tmp_path / "center.db").write_bytes(whole[:size] + b"\xff" * (len(whole) - size))
    with pytest.raises(DatabaseUnusable, match="malformed"):
        Database.open(url(tmp_path))
