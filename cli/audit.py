"""`deltaic audit`: read the center's log of decisions and check that nobody rewrote it."""

import typer
from google.protobuf.json_format import MessageToDict
from rich.filesize import decimal

from cli.connection import DEFAULT_CENTER, CenterOption, all_pages, connected, run
from cli.screen import JsonOption, print_json
from cli.tables import channel_words, is_terminal, print_line, print_rows
from deltaic.errors import BadName
from deltaic.names import RevisionName
from deltaic.trust.audit import AuditEntry, verify
from deltaic.v1 import audit_pb2
from deltaic.v1.audit_pb2_grpc import AuditServiceStub


def register(app: typer.Typer) -> None:
    app.command("audit", rich_help_panel="Operate")(audit)


def audit(center: CenterOption = DEFAULT_CENTER, as_json: JsonOption = False) -> None:
    """List every decision of the center, oldest first, after checking the chain of hashes."""
    entries = run(list_entries(center))
    verify(AuditEntry.from_proto(entry) for entry in entries)
    if as_json:
        print_json([MessageToDict(entry) for entry in entries])
        return
    rows = (
        (
            str(entry.sequence),
            entry.time.ToDatetime().isoformat(" ", "seconds"),
            entry.actor,
            entry.action,
            _resource(entry.resource),
            describe(entry),
        )
        for entry in entries
    )
    columns = ("#", "time", "actor", "action", "resource", "details")
    print_rows(columns, rows, below=[("resource",), ("details",)])
    print_line(f"{len(entries)} entries; the chain of hashes holds")


def describe(entry: audit_pb2.AuditEntry) -> str:
    """What was decided, in few words; --json has all of it."""
    details = entry.details
    if "previous_revision" in details:
        return f"{_digits(details['previous_revision']) or 'nothing'} -> {_digits(details['revision'])}"
    if details.keys() == {"revision"}:
        return _digits(details["revision"])
    if "file_bytes" in details:
        model = entry.resource.split("/")[1] if is_terminal() else entry.resource.partition("/revisions/")[0]
        return f"{model}, {_size(details['file_bytes'])}"
    return ", ".join(f"{key}={value}" for key, value in sorted(details.items()))


def _resource(name: str) -> str:
    try:
        return RevisionName.parse(name).revision if is_terminal() else name
    except BadName:
        return channel_words(name)


def _digits(revision: str) -> str:
    return revision.removeprefix("sha256:")[:12]


def _size(count: str) -> str:
    return decimal(int(count)) if count.isdecimal() and is_terminal() else f"{count} bytes"


async def list_entries(center: str) -> list[audit_pb2.AuditEntry]:
    """All pages of the log."""
    request = audit_pb2.ListEntriesRequest(page_size=1000)
    async with connected(center, "center") as connection:
        return await all_pages(AuditServiceStub(connection).ListEntries, request, lambda page: page.entries)
