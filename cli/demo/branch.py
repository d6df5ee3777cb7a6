"""A branch in processes of its own: its edges, the index that they share, and the center that they follow."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from cli.demo.processes import Node
from edge.embedded_valkey import EmbeddedValkey


class Branch:
    """Made, nothing runs yet; `running()` starts it and ends all of it, whatever happens."""

    def __init__(
        self,
        folder: Path,
        edges: Mapping[str, tuple[str, ...]],
        *,
        center: Node | None = None,
        upstream: str = "",
    ) -> None:
        """`edges` maps a name to the flags of that edge. `upstream` is where they find the center: a line before it.

        Each edge knows all others as peers and writes the index of the branch.
        """
        self.center = center or Node("center", folder)
        self.edges = {name: Node("edge", folder, name=name) for name in edges}
        # A path of its own below the temporary folder: that of a socket must be short.
        self._run = tempfile.TemporaryDirectory(prefix="dlt-")
        self.index = EmbeddedValkey(Path(self._run.name))
        for name, node in self.edges.items():
            peers = ",".join(other.address for other in self.edges.values() if other is not node)
            shared = ("--center", upstream or self.center.address, "--index-url", self.index.url)
            node.flags = (*shared, *(("--peers", peers) if peers else ()), *edges[name])
        self.statuses: dict[str, int] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.center, *self.edges.values())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Branch"]:
        """Raises Unavailable when a node does not start, IndexUnreachable."""
        with self._run:
            async with self.index.running():
                try:
                    for node in self.nodes:
                        await node.start()
                    yield self
                finally:
                    for node in reversed(self.nodes):
                        self.statuses[node.called or node.role] = await node.stop()
