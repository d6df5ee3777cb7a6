#!/usr/bin/env python3
"""A branch of real processes: three edges and a center, under mixed load, over a slow line, and without their index.

make bench-branch                                    everything: ten minutes of mixed load, then about ten more
make bench-branch ARGS="--quick"                     one minute of it, and the rest shorter; not recorded
make bench-branch ARGS="--parts mixed --minutes 3"
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

import branch_index_parts
import branch_line_parts
import branch_parts
from branch_bench import Bench
from branch_models import BranchModels
from harness import BenchFailed, Report, finish, scratch

from deltaic.runtime.logs import configure_logs

PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "mixed": branch_parts.mixed,
    "line": branch_line_parts.line,
    "index": branch_index_parts.index,
}
USUAL_MINUTES = 10.0
QUICK_MINUTES = 1.0
NEEDED_BYTES = 6_000_000_000
NOTES = """\
Every node is a process of its own on loopback, with one engine thread; the edges share one Valkey. *Mixed load*: four
clients ask any of three edges for any of eight things, the popular ones more often (Zipf, exponent 0.8): the models of
four channels of which each edge follows one or two, two revisions that channels have left, one model with an adapter,
and one model that only the center has. Questions are labelled public and answers greedy, 12 tokens long. A request
counts as answered in the branch when an edge answered it, whichever was asked; a request that failed counts against
it. With the line cut, the model that only the center has is not asked for. *A and B in turn*: three clients ask one
edge for two revisions that only it holds and of which only one fits beside its channels, the line still cut. *Line*: a
TCP proxy between center and branch at 20 Mbit/s counts what comes down, protocol and all, until every edge serves the
version. *Index*: a proxy before the Valkey counts round trips: what a client says after the server has last said
something is one. It is there, gone and hanging in turn; in each round another of them comes first."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, help=f"of the mixed load; by default {USUAL_MINUTES:g}")
    parser.add_argument("--quick", action="store_true", help="everything shorter, and not recorded")
    parser.add_argument("--record", default="branch", help="name of the results and of their table")
    options = parser.parse_args()
    if options.minutes is None:
        options.minutes = QUICK_MINUTES if options.quick else USUAL_MINUTES
    return options


async def run(bench: Bench, parts: list[str]) -> None:
    """One part after the other; one that fails does not take the rest along."""
    for name in parts:
        print(f"    -- {name}", flush=True)
        try:
            await PARTS[name](bench)
        except BenchFailed as error:
            bench.failures.append(name)
            bench.report.note(f"The part `{name}` was not measured to its end: {error}")
            print(f"bench-branch: {name}: {error}", file=sys.stderr)
    if absent := sorted(set(PARTS) - set(parts)):
        bench.report.note(f"Left out of this run: {', '.join(absent)}.")
    if bench.models.gemma is None:
        bench.report.note("gemma-3-270m was not installed; another SmolLM2 took its place.")


def main() -> int:
    options = parsed()
    configure_logs("error")
    arguments = f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else ""
    report = Report(options.record, f"make bench-branch{arguments}", notes=NOTES)
    try:
        with scratch(NEEDED_BYTES) as folder:
            bench = Bench(report, folder, BranchModels.find(folder), options.minutes, options.quick)
            asyncio.run(run(bench, options.parts))
    except BenchFailed as error:
        print(f"bench-branch: {error}", file=sys.stderr)
        return 1
    if options.quick:
        print(f"    {'every bar holds' if report.holds else 'NOT every bar holds'}; a quick run is not recorded")
        return int(not report.holds or bool(bench.failures))
    return finish(report) or int(bool(bench.failures))


if __name__ == "__main__":
    raise SystemExit(main())
