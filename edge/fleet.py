"""What this edge knows of the branch: its own report and the last one of each device."""

from collections.abc import Callable, Sequence

from deltaic.errors import InvalidArgument
from deltaic.v1 import fleet_pb2

MAX_REPORTS = 10_000
MAX_DEVICES = 9_999
_MAX_NODE_NAME = 255
_MAX_REPORT_BYTES = 131_072


class Fleet:
    """Reports in memory: devices send them again every few seconds, so nothing is lost with them."""

    def __init__(self, node: str, own: Callable[[], fleet_pb2.NodeReport], on_change: Callable[[], None]) -> None:
        """`node` is this edge, `own` its report of this moment; `on_change` hears of every report that came."""
        self._node = node
        self._own = own
        self._on_change = on_change
        self._devices: dict[str, fleet_pb2.NodeReport] = {}

    @property
    def devices(self) -> int:
        """How many have reported here."""
        return len(self._devices)

    def record(self, reports: Sequence[fleet_pb2.NodeReport]) -> None:
        """Keep these; of too many devices the one longest unheard of is forgotten. Raises InvalidArgument."""
        if len(reports) > MAX_REPORTS:
            raise InvalidArgument(f"{len(reports)} reports in one call", hint=f"send at most {MAX_REPORTS}")
        for report in reports:
            self._check(report)
        for report in reports:
            self._devices.pop(report.node, None)
            self._devices[report.node] = report
        while len(self._devices) > MAX_DEVICES:
            del self._devices[next(iter(self._devices))]
        self._on_change()

    def _check(self, report: fleet_pb2.NodeReport) -> None:
        """Refuse what the center would refuse: there it would spoil the reports that travel with it."""
        if not report.node or len(report.node) > _MAX_NODE_NAME:
            raise InvalidArgument(
                "a report without a usable node name", hint=f"name it in 1 to {_MAX_NODE_NAME} characters"
            )
        if report.node == self._node:
            raise InvalidArgument(f"{report.node} is the name of this edge", hint="give every node its own --name")
        if report.ByteSize() > _MAX_REPORT_BYTES:
            raise InvalidArgument(
                f"a report of {report.ByteSize():,} bytes", hint=f"a node has at most {_MAX_REPORT_BYTES:,} to say"
            )
        try:
            report.time.ToMicroseconds()
        except ValueError:
            raise InvalidArgument(
                f"the report of {report.node} has a time outside of the years 1 to 9999",
                hint="set the clock of that node",
            ) from None

    def reports(self) -> list[fleet_pb2.NodeReport]:
        """Our own first, then those of the devices."""
        return [self._own(), *self._devices.values()]
