"""What the parts of the engine bench share: sides that are started one at a time, windows, what was seen."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine_figures import Figures, figures
from engine_load import Seen, closed_loop
from engine_sides import SIDES, Running, Setup
from engine_transports import Transport
from engine_work import Work
from harness import Report

CONTEXT = 1024
QUICK = 0.5
_MOST_CLIENTS_IN_ROUNDS = 16
"""With more of them one window is long enough, and warming up takes longer than it."""


@dataclass(slots=True)
class Bench:
    """One run. `scale` stretches every window; a run of 15 minutes has 1.0."""

    report: Report
    model: Path
    threads: int
    gpu_layers: int
    clients: Sequence[int]
    work: Work
    scale: float
    rounds: int
    backends: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    capacity: dict[int, float] = field(default_factory=dict)
    """Questions a second that llama-server answered, by the clients that asked."""
    fronts: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Parts that were not measured to their end."""

    def setup(self, slots: int, context: int = CONTEXT) -> Setup:
        return Setup(self.model, self.threads, self.gpu_layers, slots, context)

    def seconds(self, usual: float) -> float:
        return max(2.0, usual * self.scale)

    def turns(self, sides: Sequence[str], clients: int = 1) -> list[str]:
        """Every side once a round; each round has them in the other order."""
        rounds = self.rounds if clients <= _MOST_CLIENTS_IN_ROUNDS else 1
        order = list(sides)
        return [name for number in range(rounds) for name in (order if number % 2 == 0 else order[::-1])]

    @asynccontextmanager
    async def side(self, name: str, setup: Setup, front: str = "") -> AsyncIterator[tuple[Running, Transport]]:
        """A side that runs alone, and a way to it."""
        with SIDES[name](setup) as running:
            self.backends[name] = running.backend
            self.fronts[name] = running.usual
            transport = running.transport(front)
            try:
                yield running, transport
            finally:
                await transport.close()

    async def closed(
        self,
        transport: Transport,
        clients: int,
        seconds: float,
        *,
        see_all_first_tokens: bool = True,
        questions: str = "",
    ) -> Seen:
        """The usual clients; the same questions for every side, or others by the name of `questions`."""
        streams = [self.work.stream(f"{clients} clients, number {number}{questions}") for number in range(clients)]
        return self.kept(await closed_loop(transport, streams, seconds, see_all_first_tokens=see_all_first_tokens))

    def kept(self, seen: Seen) -> Seen:
        """Remember what the load generator took."""
        self.seen.append(seen)
        return seen

    def figures(self, rounds: dict[str, list[Seen]]) -> dict[str, Figures]:
        return {name: figures(name, seen) for name, seen in rounds.items()}

    def load_share(self) -> float:
        """Percent of one core that this process took while windows were open; the largest of all windows."""
        return max((100 * seen.cpu_s / seen.seconds for seen in self.seen), default=0.0)
