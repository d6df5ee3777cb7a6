"""A new version over a slow line: what three edges of a branch take of it, beside what one takes alone.

What they take from each other does not cross the line, and is counted beside what they would take without deltas.
"""

from dataclasses import dataclass

from branch_bench import Bench
from branch_line import BranchLine
from harness import against_peer

from cli.demo.processes import free_port
from cli.edge import node_status

_BITS_PER_SECOND = 20e6
_BAR = 1.15
_MODEL = "smollm2"


async def line(bench: Bench) -> None:
    """A first version, and then a new one, to one edge and to three."""
    alone = await _carried(bench, ["one"])
    together = await _carried(bench, ["one", "two", "three"])
    for what, three, one in zip(("a first version", "a new version"), together.line, alone.line, strict=True):
        row = against_peer(
            "bytes over the line of 20 Mbit/s",
            f"{what} reaches three edges",
            "bytes",
            three,
            one,
            peer_name="one edge alone",
            bar=_BAR,
        )
        bench.report.add(row)
    bench.report.add(
        against_peer(
            "bytes between edges",
            "a new version reaches three edges",
            "bytes",
            together.edges[-1],
            2 * bench.models.smollm2.tuned.stat().st_size,
            peer_name="two whole files",
        )
    )


@dataclass(frozen=True, slots=True)
class _Carried:
    """Bytes until all edges served the first version, and from then until they served the second."""

    line: list[int]
    edges: list[int]
    """What edges took from each other."""


async def _carried(bench: Bench, names: list[str]) -> _Carried:
    center_port = free_port()
    edges = dict.fromkeys(names, ("--channels", f"{_MODEL}/stable"))
    files = bench.models.smollm2
    async with (
        BranchLine(center_port, bits_per_second=_BITS_PER_SECOND).listening() as slow,
        bench.branch(f"line-{len(names)}", edges, center_port=center_port, upstream=slow.address) as branch,
    ):
        carried, before = _Carried([], []), (0, 0)
        for file in (files.base, files.tuned):
            revision = await branch.publish(file, _MODEL)
            for name in names:
                await bench.serving(branch, name, revision)
            statuses = [await node_status(branch.edges[name].address) for name in names]
            now = slow.down_bytes, sum(status.fetched.saved_by_peers for status in statuses)
            carried.line.append(now[0] - before[0])
            carried.edges.append(now[1] - before[1])
            before = now
    return carried
