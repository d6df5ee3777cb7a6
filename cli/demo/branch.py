"""A branch in processes of its own: its edges, the index that they share, and the center that they follow."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cli.demo.processes import Node
from cli.fleet import list_nodes
from cli.publish import publish
from deltaic.errors import DeadlineExceeded, DeltaicError
from edge.index.embedded_valkey import EmbeddedValkey

_POLL_SECONDS = 0.3


class Branch:
    """Made, nothing runs yet; `running()` starts it and ends all of it, whatever happens."""

    def __init__(
        self,
        folder: Path,
        edges: Mapping[str, tuple[str, ...]],
        *,
        center: Node | None = None,
        upstream: str | Mapping[str, str] = "",
        index_url: str = "",
    ) -> None:
        """`edges` maps a name to the flags of that edge. Each knows all others as peers.

        `upstream` is where they, or those that it names, find the center, `index_url` where the index: by default
        where these are, else at something that stands before it.
        """
        self.center = center or Node("center", folder)
        self.edges = {name: Node("edge", folder, name=name) for name in edges}
        # A path of its own below the temporary folder: that of a socket must be short.
        self._run = tempfile.TemporaryDirectory(prefix="dlt-")
        self.index = EmbeddedValkey(Path(self._run.name))
        for name, node in self.edges.items():
            peers = ",".join(other.address for other in self.edges.values() if other is not node)
            line = upstream if isinstance(upstream, str) else upstream.get(name, "")
            shared = ("--center", line or self.center.address, "--index-url", index_url or self.index.url)
            node.flags = (*shared, *(("--peers", peers) if peers else ()), *edges[name])
        self.statuses: dict[str, int] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.center, *self.edges.values())

    @asynccontextmanager
    async def running(self, *, without: Collection[str] = ()) -> AsyncIterator["Branch"]:
        """`without` are edges that somebody else starts later. Raises Unavailable when a node does not start."""
        with self._run:
            async with self.index.running():
                try:
                    for node in (self.center, *(edge for name, edge in self.edges.items() if name not in without)):
                        await node.start()
                    yield self
                finally:
                    for node in reversed(self.nodes):
                        self.statuses[node.called or node.role] = await node.stop()

    async def publish(self, file: Path, model: str, channel: str = "stable") -> str:
        """Publish at the center and move a channel; the revision's name. Raises DeltaicError."""
        with Progress(console=Console(quiet=True), disable=True) as bars:
            done = await publish(file, model=model, channel=channel, center=self.center.address, progress=bars)
        return done.revision


async def serving(edge: Node, wanted: Collection[str], seconds: float) -> None:
    """Wait until an edge serves these revisions on its channels. Raises DeadlineExceeded after `seconds`."""
    deadline = time.monotonic() + seconds
    found: set[str] = set()
    while time.monotonic() < deadline:
        try:
            reports = [node for node in await list_nodes(edge.address) if node.node == edge.called]
        except DeltaicError:
            reports = []
        found = {state.serving_revision for node in reports for state in node.models}
        if found.issuperset(wanted):
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise DeadlineExceeded(f"{edge.called} serves {sorted(found)} and not {sorted(wanted)}: {edge.last_words()}")
