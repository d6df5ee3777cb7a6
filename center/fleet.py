"""The last report of every node, in the database, so that a restarted center remembers its fleet."""

from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Connection, insert, select, update

from center.catalog import now_us
from center.database import Database
from center.errors import BadRequest
from center.records import Page
from center.tables import node_reports
from deltaic.rpc.pages import decode_token, encode_token, page_size
from deltaic.v1 import fleet_pb2

MAX_REPORTS = 10_000
_MAX_NODE_NAME = 255
_MAX_REPORT_BYTES = 131_072
_BATCH = 500


class Fleet:
    """Blocks: call it from a thread. `clock` gives microseconds since 1970 UTC."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    def record(self, reports: Sequence[fleet_pb2.NodeReport]) -> None:
        """Keep the newest report of each node by the time it was written; an older one that comes late is dropped.

        A report from the future counts as one of now, so that a node whose clock was wrong is heard again. Raises
        BadRequest, and then keeps none.
        """
        now = self._clock()
        newest: dict[str, tuple[int, fleet_pb2.NodeReport]] = {}
        for report in _checked(reports):
            written = min(report.time.ToMicroseconds(), now) if report.HasField("time") else now
            if report.node not in newest or written >= newest[report.node][0]:
                newest[report.node] = (written, report)
        with self._database.writing() as connection:
            for names in _batches(sorted(newest)):
                _write(connection, {name: newest[name] for name in names})

    def list_nodes(self, size: int = 0, token: str = "") -> Page[fleet_pb2.NodeReport]:
        """By node name. Raises BadPage."""
        limit = page_size(size)
        position = decode_token(token, "nodes", str)
        query = select(node_reports.c.report).order_by(node_reports.c.node).limit(limit + 1)
        if position:
            query = query.where(node_reports.c.node > position[0])
        with self._database.reading() as connection:
            found = [fleet_pb2.NodeReport.FromString(data) for data in connection.execute(query).scalars()]
        kept = tuple(found[:limit])
        return Page(kept, encode_token("nodes", kept[-1].node) if len(found) > limit else "")


def _checked(reports: Sequence[fleet_pb2.NodeReport]) -> Sequence[fleet_pb2.NodeReport]:
    if len(reports) > MAX_REPORTS:
        raise BadRequest(f"{len(reports)} reports in one call", hint=f"send at most {MAX_REPORTS}")
    for report in reports:
        if not report.node or len(report.node) > _MAX_NODE_NAME:
            raise BadRequest("a report without a usable node name", hint=f"name it in 1 to {_MAX_NODE_NAME} characters")
        if report.ByteSize() > _MAX_REPORT_BYTES:
            raise BadRequest(
                f"a report of {report.ByteSize():,} bytes", hint=f"a node has at most {_MAX_REPORT_BYTES:,} to say"
            )
        _check_time(report)
    return reports


def _check_time(report: fleet_pb2.NodeReport) -> None:
    try:
        report.time.ToMicroseconds()
    except ValueError:
        raise BadRequest(
            f"the report of {report.node} has a time outside of the years 1 to 9999", hint="set the clock of that node"
        ) from None


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _write(connection: Connection, reports: dict[str, tuple[int, fleet_pb2.NodeReport]]) -> None:
    query = select(node_reports.c.node, node_reports.c.time_us).where(node_reports.c.node.in_(reports))
    known = {row.node: row.time_us for row in connection.execute(query)}
    for node, (time_us, report) in reports.items():
        values = {"time_us": time_us, "report": report.SerializeToString()}
        if node not in known:
            connection.execute(insert(node_reports).values(node=node, **values))
        elif time_us >= known[node]:
            connection.execute(update(node_reports).where(node_reports.c.node == node).values(values))
