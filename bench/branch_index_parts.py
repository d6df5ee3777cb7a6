"""What the index costs a request, and what it costs to be without one."""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from branch_bench import Bench
from branch_index_tap import IndexTap
from branch_load import Ask, load
from branch_turns import Outcomes
from engine_figures import without_bar
from engine_numbers import quantile
from harness import BenchFailed, against_peer, at_least, within

from cli.demo.processes import Node
from edge.index.embedded_valkey import EmbeddedValkey

_MODEL = "smollm2"
_TURNS_BAR = 2.0
_KEPT_BAR = 90.0
_ROUNDS = 3
_CLIENTS = 4
_TOKENS = 16
_COUNTED_SECONDS = 20.0
_ROUND_SECONDS = 15.0
_MS = 1000.0


async def index(bench: Bench) -> None:
    """Round trips of requests one after the other; then the same load with the index there, gone, and hanging."""
    # Paths of sockets must be short, so they are not below the folder of the bench.
    with tempfile.TemporaryDirectory(prefix="dlt-") as run:
        valkey = EmbeddedValkey(Path(run))
        front, behind = Path(run) / "tap.sock", Path(valkey.url.removeprefix("unix://"))
        edges = dict.fromkeys(("one", "two"), ("--channels", f"{_MODEL}/stable"))
        async with (
            valkey.running(),
            IndexTap(front, behind).listening() as tap,
            bench.branch("index", edges, index_url=f"unix://{front}") as branch,
        ):
            revision = await branch.publish(bench.models.smollm2.base, _MODEL)
            for name in edges:
                await bench.serving(branch, name, revision)
            nodes = list(branch.edges.values())
            await _count_turns(bench, nodes[0], tap)
            await _with_and_without(bench, nodes, tap)


async def _count_turns(bench: Bench, edge: Node, tap: IndexTap) -> None:
    """Of one client, less what two idle edges do in the same time."""
    seconds = bench.seconds(_COUNTED_SECONDS)
    before, reads_before = tap.turns, tap.reads
    await asyncio.sleep(seconds)
    idle, idle_reads = tap.turns - before, tap.reads - reads_before
    seen = await load([edge], _the_model, seconds, clients=1, tokens=_TOKENS)
    await asyncio.sleep(1.0)
    if not seen.answered or seen.failed:
        raise BenchFailed(f"{seen.answered} answers, {seen.named()}")
    reads = max(0, tap.reads - reads_before - 2 * idle_reads) / seen.answered
    turns = max(0, tap.turns - before - 2 * idle) / seen.answered
    case = f"{seen.answered} requests one after the other"
    row = within("round trips to the index before an answer", case, "a request", reads, allowed=_TURNS_BAR)
    bench.report.add(row)
    everything = within("round trips, what is written behind included", case, "a request", turns, allowed=_TURNS_BAR)
    bench.report.add(without_bar(everything))
    bench.report.note(f"Two idle edges made {idle} round trips to their index in {seconds:g} s.")


async def _with_and_without(bench: Bench, nodes: Sequence[Node], tap: IndexTap) -> None:
    seen: dict[str, list[Outcomes]] = {"there": [], "gone": [], "hanging": []}
    seconds = bench.seconds(_ROUND_SECONDS)
    states = list(seen)
    for number in range(_ROUNDS):
        for state in states[number:] + states[:number]:  # each comes first once
            if state == "gone":
                tap.take_away()
            elif state == "hanging":
                tap.stall()
            await asyncio.sleep(bench.seconds(2.0))
            outcomes = await load(nodes, _the_model, seconds, clients=_CLIENTS, tokens=_TOKENS, seed=number)
            seen[state].append(outcomes)
            await tap.bring_back()
            await asyncio.sleep(bench.seconds(4.0))  # until the edges have found it again
    _add(bench, seen)


def _add(bench: Bench, seen: dict[str, list[Outcomes]]) -> None:
    answered = {state: sum(each.answered for each in outcomes) for state, outcomes in seen.items()}
    failed = sum(each.failed for outcomes in seen.values() for each in outcomes)
    if not all(answered.values()):
        raise BenchFailed(f"nothing was answered in one of the states: {answered}")
    times = {state: [time for each in outcomes for time in each.seconds] for state, outcomes in seen.items()}
    case = f"{_CLIENTS} clients, {_ROUNDS} rounds of {bench.seconds(_ROUND_SECONDS):g} s each"
    bench.report.add(
        within("requests that failed", f"{case}, index there, gone and hanging", "requests", failed, allowed=0)
    )
    for state in ("gone", "hanging"):
        kept = 100 * answered[state] / answered["there"]
        bench.report.add(at_least(f"throughput with the index {state}", case, "%", kept, needed=_KEPT_BAR))
    p99 = {state: quantile(each, 0.99) * _MS for state, each in times.items()}
    for state in ("gone", "hanging"):
        bench.report.add(
            against_peer(
                "p99 of a request, index there", case, "ms", p99["there"], p99[state], peer_name=f"index {state}"
            )
        )


def _the_model(_dice: random.Random) -> Ask:
    return Ask(_MODEL)
