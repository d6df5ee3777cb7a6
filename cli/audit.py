"""`deltaic audit`: read the center's log of decisions and check that nobody rewrote it."""

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from cli.connection import (
    DEFAULT_CENTER,
    CenterOption,
    JsonOption,
    all_pages,
    connected,
    console,
    print_json,
    run,
)
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
    table = Table("#", "time", "actor", "action", "resource", box=None)
    for entry in entries:
        time = entry.time.ToDatetime().isoformat(" ", "seconds")
        table.add_row(str(entry.sequence), time, entry.actor, entry.action, entry.resource)
    console.print(table)
    console.print(f"{len(entries)} entries; the chain of hashes holds")


async def list_entries(center: str) -> list[audit_pb2.AuditEntry]:
    """All pages of the log."""
    request = audit_pb2.ListEntriesRequest(page_size=1000)
    async with connected(center, "center") as connection:
        return await all_pages(AuditServiceStub(connection).ListEntries, request, lambda page: page.entries)
