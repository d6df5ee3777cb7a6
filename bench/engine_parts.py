"""Parts of the engine bench that compare with servers: closed loop, open loop, the hops before a worker."""

from collections import defaultdict
from functools import partial
from statistics import mean

from engine_bench import Bench
from engine_figures import add_comparison, add_latencies, throughput
from engine_load import Seen, open_loop
from engine_numbers import poisson_arrivals
from engine_sides import LLAMA_SERVER, OURS, PYTHON_SERVER
from engine_work import ANSWER_TOKENS

FRACTIONS = (0.5, 0.8, 1.1)
_CLOSED_SECONDS = 9.0
_OPEN_QUESTIONS = 16.0
"""Expected at every rate."""
_OPEN_LEAST = 8.0
_OPEN_CLIENTS = 16
_HOP_SECONDS = 9.0
_HOP_CLIENTS = 16
_HOP_BAR = 1.05
_PYTHON_CLIENTS = 8
_PYTHON_BAR = 0.5


async def closed(bench: Bench) -> None:
    """Ours beside llama-server at every number of clients."""
    for clients in bench.clients:
        rounds: dict[str, list[Seen]] = defaultdict(list)
        for name in bench.turns([LLAMA_SERVER, OURS], clients):
            async with bench.side(name, bench.setup(clients)) as (_, transport):
                rounds[name].append(await bench.closed(transport, clients, bench.seconds(_CLOSED_SECONDS)))
        seen = bench.figures(rounds)
        bench.capacity[clients] = seen[LLAMA_SERVER].tokens_per_second / mean(ANSWER_TOKENS)
        add_comparison(bench.report, _of(clients), seen[OURS], seen[LLAMA_SERVER], LLAMA_SERVER)


async def poisson(bench: Bench) -> None:
    """Questions that come when they come, at fractions of what llama-server can answer."""
    slots = min(_OPEN_CLIENTS, max(bench.clients))
    if slots not in bench.capacity:
        async with bench.side(LLAMA_SERVER, bench.setup(slots)) as (_, transport):
            seen = await bench.closed(transport, slots, bench.seconds(_CLOSED_SECONDS))
        bench.capacity[slots] = seen.tokens() / seen.seconds / mean(ANSWER_TOKENS)
    for fraction in FRACTIONS:
        rate = fraction * bench.capacity[slots]
        seconds = max(_OPEN_LEAST, _OPEN_QUESTIONS * bench.scale) / rate
        arrivals = poisson_arrivals(rate, seconds, seed=round(fraction * 100))
        rounds: dict[str, list[Seen]] = {}
        for name in (OURS, LLAMA_SERVER):
            async with bench.side(name, bench.setup(slots)) as (_, transport):
                questions = bench.work.stream(f"open loop at {fraction}")
                rounds[name] = [bench.kept(await open_loop(transport, questions, arrivals, seconds))]
        measured = bench.figures(rounds)
        case = f"arrivals at {fraction:g} of llama-server's capacity, {len(arrivals)} requests"
        add_latencies(bench.report, case, measured[OURS], measured[LLAMA_SERVER], LLAMA_SERVER)


async def hops(bench: Bench) -> None:
    """One worker, asked directly, through the node, and through the node's HTTP face.

    It remembers prompts, so every window has questions that it has not seen.
    """
    clients = min(_HOP_CLIENTS, max(bench.clients))
    rounds: dict[str, list[Seen]] = defaultdict(list)
    async with bench.side(OURS, bench.setup(clients)) as (running, _):
        for turn, front in enumerate(bench.turns(list(running.fronts))):
            transport = running.transport(front)
            window = bench.seconds(_HOP_SECONDS)
            rounds[front].append(await bench.closed(transport, clients, window, questions=f", turn {turn}"))
            await transport.close()
    seen = bench.figures(rounds)
    for front in seen:
        if front != "worker":
            case = f"{_of(clients)}, through the {front}"
            bench.report.add(throughput(case, seen[front], seen["worker"], "worker's socket", _HOP_BAR))


async def python(bench: Bench) -> None:
    """Ours beside the server that llama-cpp-python carries."""
    clients = min(_PYTHON_CLIENTS, max(bench.clients))
    rounds: dict[str, list[Seen]] = {}
    for name in (PYTHON_SERVER, OURS):
        async with bench.side(name, bench.setup(clients)) as (_, transport):
            ask = partial(bench.closed, see_all_first_tokens=name == OURS)
            rounds[name] = [await ask(transport, clients, bench.seconds(_CLOSED_SECONDS))]
    seen = bench.figures(rounds)
    bench.report.add(throughput(_of(clients), seen[OURS], seen[PYTHON_SERVER], PYTHON_SERVER, _PYTHON_BAR))


def _of(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"
