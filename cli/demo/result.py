"""What the demo found out: values only."""

import statistics
from dataclasses import dataclass, field

from cli.demo.traffic import Answer, Kind


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about the system, and whether it held."""

    name: str
    held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """One revision on its way to the edge and to the device.

    `update_bytes` came over the line to the branch for it, manifest included; `device_bytes` the same from edge to
    device. `delta_bytes` is what of the file a delta made on the edge, `device_delta_bytes` on the device.
    `rollout_seconds` is from the channel's move until both nodes answer with it; `swap_seconds` the longer of
    the two nodes' times from the complete file to the switch: load, warm, swap.
    """

    version: str
    revision: str
    full_bytes: int
    update_bytes: int
    device_bytes: int
    delta_bytes: int
    device_delta_bytes: int
    rollout_seconds: float
    swap_seconds: float

    @property
    def share(self) -> float:
        return self.update_bytes / self.full_bytes

    @property
    def way(self) -> str:
        """How most of what changed came."""
        return "delta" if self.delta_bytes else "chunks"


@dataclass(slots=True)
class Result:
    """Everything, gathered while the journey goes."""

    checks: list[Check] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    flowing_seconds: float = 0.0
    sensitive_requests: int = 0
    sensitive_bytes_out: int = 0
    second_edge_bytes: int = 0
    """Bytes that came to the second edge over its line to the center until it served the first version."""
    neighbour_answers: int = 0
    """Requests that were made at the first edge and answered by the second."""
    before: str = ""
    after: str = ""

    def check(self, name: str, held: bool, detail: str = "") -> None:
        """Note whether a statement held."""
        self.checks.append(Check(name, held, detail))

    @property
    def held(self) -> bool:
        return bool(self.checks) and all(check.held for check in self.checks)

    @property
    def failed(self) -> int:
        return sum(bool(answer.error) for answer in self.answers)

    def answered_by(self, node: str) -> int:
        return sum(answer.answered_by == node for answer in self.answers)

    @property
    def edge_share(self) -> float:
        return self.answered_by("edge") / max(1, len(self.answers))

    @property
    def tokens_per_second(self) -> float:
        """All tokens of all clients over the seconds in which traffic flowed."""
        return sum(answer.tokens for answer in self.answers) / max(1e-9, self.flowing_seconds)

    @property
    def first_token_ms(self) -> float:
        """Median over the requests that the edge answered."""
        times = [answer.first_token for answer in self.answers if answer.kind is Kind.HOT and not answer.error]
        return 1000 * statistics.median(times) if times else 0.0

    @property
    def swap_seconds(self) -> float:
        return max((update.swap_seconds for update in self.updates), default=0.0)
