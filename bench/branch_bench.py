"""What the parts of the branch bench share: its branches, its minutes, its report."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from branch_models import BranchModels
from harness import BenchFailed, Report

from cli.demo.branch import Branch, serving
from cli.demo.processes import Node, free_port
from deltaic.errors import DeltaicError

ROLLOUT_SECONDS = 400.0
_ENGINE = ("--engine.threads", "1", "--engine.context-tokens", "1024")


@dataclass(slots=True)
class Bench:
    """One run."""

    report: Report
    folder: Path
    models: BranchModels
    minutes: float
    """Of the mixed load; other parts have lengths of their own, which `quick` makes shorter."""
    quick: bool = False
    failures: list[str] = field(default_factory=list)
    """Parts that were not measured to their end."""

    def seconds(self, usual: float) -> float:
        """How long something lasts that lasts `usual` seconds in a full run."""
        return usual / 4 if self.quick else usual

    @asynccontextmanager
    async def branch(
        self,
        name: str,
        edges: Mapping[str, tuple[str, ...]],
        *,
        center_port: int = 0,
        upstream: str = "",
        index_url: str = "",
    ) -> AsyncIterator[Branch]:
        """A center and edges, with one engine thread each, in a folder of their own; BenchFailed for what fails."""
        folder = self.folder / name
        folder.mkdir()
        flags = {each: (*_ENGINE, *more) for each, more in edges.items()}
        center = Node("center", folder, port=center_port or free_port())
        branch = Branch(folder, flags, center=center, upstream=upstream, index_url=index_url)
        try:
            async with branch.running():
                yield branch
        except DeltaicError as error:
            raise BenchFailed(str(error)) from None

    async def serving(self, branch: Branch, name: str, *revisions: str) -> None:
        """Wait until an edge serves these. Raises DeadlineExceeded."""
        await serving(branch.edges[name], revisions, ROLLOUT_SECONDS)
