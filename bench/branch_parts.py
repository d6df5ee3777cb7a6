"""The mixed load: three edges that hold different models, in budgets that do not fit all of them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from branch_bench import Bench
from branch_line import BranchLine
from branch_load import Ask, load
from branch_models import ADAPTER, write_adapter
from branch_turns import Outcomes, Popular
from harness import Report, at_least, within

from cli.demo.branch import Branch
from cli.demo.processes import Node, free_port

ASSISTANT, GEMMA, CODE, NOTES, RARE = "smollm2", "gemma", "code", "notes", "rare"
_HOT_BYTES = "1600MB"
"""Of each edge: its channels and one more model. One of SmolLM2 is counted with up to 480 MB, and two are followed."""
_BRANCH_BAR = 80.0
_CLIENTS = 4
_PAUSE = 0.2
_SWITCHERS = 3


@dataclass(frozen=True, slots=True)
class Stock:
    """What is asked for: names of models in the order of their popularity, and two old revisions of one edge."""

    popular: tuple[Ask, ...]
    held: tuple[Ask, ...]
    """Those of `popular` that some edge holds."""
    one: Ask
    other: Ask


async def mixed(bench: Bench) -> None:
    """Minutes of everything with the line up, then with the line cut, then two models in turn on one edge."""
    center_port = free_port()
    adapters = bench.folder / "adapters"
    write_adapter(adapters, ASSISTANT)
    common = ("--hot-bytes", _HOT_BYTES, "--adapters", str(adapters))
    second = GEMMA if bench.models.gemma else RARE + "2"
    edges = {
        "one": (*common, "--channels", f"{ASSISTANT}/stable"),
        "two": (*common, "--channels", f"{second}/stable"),
        "three": (*common, "--channels", f"{CODE}/stable,{NOTES}/stable"),
    }
    async with (
        BranchLine(center_port).listening() as line,
        bench.branch("mixed", edges, center_port=center_port, upstream=line.address) as branch,
    ):
        stock = await _fill(bench, branch, second)
        nodes = list(branch.edges.values())
        await _line_up(bench, nodes, stock)
        line.cut()
        await _line_cut(bench, nodes, stock)
        await _switches(bench, branch.edges["three"], stock)


async def _fill(bench: Bench, branch: Branch, second: str) -> Stock:
    """Publish everything; each edge keeps the revision before the one that its channel serves."""
    files = bench.models.smollm2
    before = {
        ASSISTANT: await branch.publish(files.base, ASSISTANT),
        CODE: await branch.publish(files.base, CODE),
        NOTES: await branch.publish(files.tuned, NOTES),
    }
    await bench.serving(branch, "one", before[ASSISTANT])
    await bench.serving(branch, "three", before[CODE], before[NOTES])
    await branch.publish(files.code, RARE)
    await bench.serving(branch, "two", await branch.publish(bench.models.gemma or files.code, second))
    await bench.serving(branch, "one", await branch.publish(files.tuned, ASSISTANT))
    now = [await branch.publish(files.code, CODE), await branch.publish(files.retemplated, NOTES)]
    await bench.serving(branch, "three", *now)
    held = (
        *(Ask(ASSISTANT), Ask(second), Ask(CODE), Ask(ASSISTANT, ADAPTER)),
        *(Ask(NOTES), Ask(before[ASSISTANT]), Ask(before[CODE])),
    )
    return Stock((*held, Ask(RARE)), held, Ask(before[CODE]), Ask(before[NOTES]))


async def _line_up(bench: Bench, nodes: Sequence[Node], stock: Stock) -> None:
    seen = await load(nodes, _zipf(stock.popular), 60 * bench.minutes, clients=_CLIENTS, pause=_PAUSE)
    case = f"{bench.minutes:g} minutes of mixed load, line up"
    share = at_least("requests answered in the branch", case, "%", 100 * seen.branch_share, needed=_BRANCH_BAR)
    bench.report.add(share)
    _add_failures(bench.report, case, seen)
    bench.report.note(
        f"Mixed load: {seen.answered + seen.failed:,} requests, {seen.elsewhere:,} of them answered by another edge "
        f"than the one asked. Each edge had {_HOT_BYTES} for models."
    )


async def _line_cut(bench: Bench, nodes: Sequence[Node], stock: Stock) -> None:
    minutes = bench.minutes / 5
    seen = await load(nodes, _zipf(stock.held), 60 * minutes, clients=_CLIENTS, pause=_PAUSE, seed=2)
    _add_failures(bench.report, f"{minutes:g} minutes of held models, line cut", seen)


async def _switches(bench: Bench, edge: Node, stock: Stock) -> None:
    """Two revisions of which only one fits, in turn, from several clients, with nobody else to pass them on to."""
    turn = 0

    def next_one(_dice: random.Random) -> Ask:
        nonlocal turn
        turn += 1
        return stock.one if turn % 2 else stock.other

    seen = await load([edge], next_one, bench.seconds(60.0), clients=_SWITCHERS, tokens=4, seed=3)
    _add_failures(bench.report, f"A and B in turn, {seen.answered:,} answered, line cut", seen)


def _add_failures(report: Report, case: str, seen: Outcomes) -> None:
    report.add(within("requests that failed", case, "requests", seen.failed, allowed=0))
    if seen.failed:
        report.note(f"Failed in {case}: {seen.named()}.")
        print(f"       {seen.named()}", flush=True)


def _zipf(asks: Sequence[Ask]) -> Callable[[random.Random], Ask]:
    popular = Popular([str(place) for place in range(len(asks))])
    return lambda dice: asks[int(popular.draw(dice))]
