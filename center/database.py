"""The database behind the catalog: opening, migrating at start, transactions."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SAWarning

from center.errors import DatabaseBusy, DatabaseDamaged, DatabaseFull, DatabaseUnusable

_BUSY_TIMEOUT_MS = 10_000
_CHECK_THE_DISK = "check the disk of the data folder: its space, its mount, who may write"


class Database:
    """Short transactions over one engine. Blocks: call it from a thread, never from the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> "Database":
        """Connect and bring the schema up to date. Raises DatabaseUnusable."""
        try:
            engine = _engine(url)
        except (ArgumentError, ModuleNotFoundError, ValueError) as error:
            # Only what names a missing module is said as it is: other errors quote the URL, which may hold a password.
            told = isinstance(error, NoSuchModuleError | ModuleNotFoundError)
            raise DatabaseUnusable(
                f"not a database that this center knows: {error if told else 'its URL cannot be read'}",
                hint="give an SQLAlchemy URL, like sqlite:///FILE",
            ) from None
        try:
            _migrate(engine)
        except DBAPIError as error:
            engine.dispose()
            # What follows the question mark may hold a password under any name.
            shown = engine.url.set(query={}).render_as_string(hide_password=True)
            raise DatabaseUnusable(
                f"cannot use the database {shown}: {error.orig}", hint="check that it is there, whole and writable"
            ) from None
        except DatabaseUnusable:
            engine.dispose()
            raise
        return cls(engine)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view. Raises as `writing` does."""
        with _told_plainly(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """All or nothing: commits at the end of the block, rolls back when it raises.

        Raises DatabaseFull, DatabaseBusy, DatabaseDamaged or DatabaseUnusable for what SQLite says of its file.
        """
        connecting = self._engine.connect().execution_options(deltaic_writes=True)
        with _told_plainly(), connecting as connection, connection.begin():
            yield connection

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def _told_plainly() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        name = getattr(error.orig, "sqlite_errorname", "")
        for prefix, known, hint in (
            ("SQLITE_FULL", DatabaseFull, "free space on the disk of the data folder"),
            ("SQLITE_BUSY", DatabaseBusy, "another process holds it; try again"),
            ("SQLITE_CORRUPT", DatabaseDamaged, "restore it from a copy"),
            ("SQLITE_NOTADB", DatabaseDamaged, "restore it from a copy"),
            ("SQLITE_IOERR", DatabaseUnusable, _CHECK_THE_DISK),
            ("SQLITE_READONLY", DatabaseUnusable, _CHECK_THE_DISK),
            ("SQLITE_CANTOPEN", DatabaseUnusable, _CHECK_THE_DISK),
        ):
            if name.startswith(prefix):
                raise known(f"the catalog's database: {error.orig}", hint=hint) from None
        raise


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    with warnings.catch_warnings():
        # It says on several lines of stderr that the driver takes no such setting.
        warnings.simplefilter("ignore", SAWarning)
        engine = create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Durable at commit, references checked, and transactions begun by us instead of guessed by the driver."""
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock before it reads, so that what it compares is what it replaces."""
    writes = connection.get_execution_options().get("deltaic_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def migration_config() -> Config:
    """Alembic's settings, without an ini file: the scripts lie beside this module."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migrate(engine: Engine) -> None:
    config = migration_config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.connect().execution_options(deltaic_writes=True) as connection, connection.begin():
        present = set(MigrationContext.configure(connection).get_current_heads())
        if not present <= known:
            raise DatabaseUnusable(
                f"the database has schema {', '.join(sorted(present - known))}, which is newer than this software",
                hint="start the newer version of deltaic, or restore an older database",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
