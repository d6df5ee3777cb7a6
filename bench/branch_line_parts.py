"""A new version over a slow line: what three edges of a branch take of it, beside what one takes alone."""

from branch_bench import Bench
from branch_line import BranchLine
from harness import against_peer

from cli.demo.processes import free_port

_BITS_PER_SECOND = 20e6
_BAR = 1.15
_MODEL = "smollm2"


async def line(bench: Bench) -> None:
    """A first version, and then a new one, to one edge and to three."""
    alone = await _carried(bench, ["one"])
    together = await _carried(bench, ["one", "two", "three"])
    for what, three, one in zip(("a first version", "a new version"), together, alone, strict=True):
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


async def _carried(bench: Bench, names: list[str]) -> tuple[int, int]:
    """Bytes that came down until all edges served the first version, and from then until they served the second."""
    center_port = free_port()
    edges = dict.fromkeys(names, ("--channels", f"{_MODEL}/stable"))
    files = bench.models.smollm2
    async with (
        BranchLine(center_port, bits_per_second=_BITS_PER_SECOND).listening() as slow,
        bench.branch(f"line-{len(names)}", edges, center_port=center_port, upstream=slow.address) as branch,
    ):
        counted = [slow.down_bytes]
        for file in (files.base, files.tuned):
            revision = await branch.publish(file, _MODEL)
            for name in names:
                await bench.serving(branch, name, revision)
            counted.append(slow.down_bytes)
    return counted[1] - counted[0], counted[2] - counted[1]
