"""Parts of the engine bench where a fleet hurts: shared prompts, curious tenants, long prompts, greedy tenants."""

import asyncio
import random
import time
from functools import partial
from statistics import median

from engine_bench import Bench
from engine_figures import MS, without_bar
from engine_load import Seen, ask, closed_loop
from engine_numbers import rank_sum_p
from engine_sides import LLAMA_SERVER, OURS
from engine_transports import Answer, Transport
from engine_work import Question, text
from harness import BenchFailed, against_peer, at_least, within

_SYSTEM_WORDS = 1000
_SYSTEM_PROMPTS = 3
_LATER = 5
_PREFIX_BAR = 0.2
_PROBES = 20
_PROBE_WORDS = 200
_P_NEEDED = 0.01
_MEDIANS_ALLOWED = 1.05
_USERS = 8
_LONG_WORDS = 4000
_LONG_CONTEXT = 8192
_LONG_ANSWER = 3000
_STEADY_SECONDS = 5.0
_GAP_BAR = 3.0
_FAIR_SLOTS = 4
_FAIR_CLIENTS = {"busy": 40, "modest": 4}
_FAIR_SECONDS = 30.0
_FAIR_WARM_UP = 8.0
_FAIR_BAR = 1.1
_FAIR_PROMPT, _FAIR_ANSWER = 80, 32


async def prefix(bench: Bench) -> None:
    """A system prompt of 1,000 tokens that many questions share: the first of them pays for it."""
    ratios: dict[str, tuple[float, float]] = {}
    for name in (OURS, LLAMA_SERVER):
        async with bench.side(name, bench.setup(4, 2048)) as (_, transport):
            ratios[name] = await _cold_and_warm(bench, transport)
    for name, (cold, warm) in ratios.items():
        row = against_peer(
            "TTFT of a shared system prompt",
            f"1,000 tokens, {name}",
            "ms",
            warm * MS,
            cold * MS,
            peer_name="the first time",
            bar=_PREFIX_BAR,
        )
        bench.report.add(row if name == OURS else without_bar(row))


async def _cold_and_warm(bench: Bench, transport: Transport) -> tuple[float, float]:
    """Medians of the time to the first token: of questions with a new system prompt, and of further ones with it."""
    source = random.Random("system prompts")
    await _first_token(transport, bench.work.question("Hello.", 2))
    cold, warm = [], []
    for _ in range(_SYSTEM_PROMPTS):
        system = text(source, _SYSTEM_WORDS)
        times = [
            await _first_token(transport, bench.work.question(text(source, 20), 2, system=system))
            for _ in range(1 + _LATER)
        ]
        cold.append(times[0])
        warm += times[1:]
    return median(cold), median(warm)


async def probing(bench: Bench) -> None:
    """Tenant B asks what tenant A has asked, and what nobody has; A asks again, to see that a difference shows."""
    source = random.Random("probing")
    times: dict[str, list[float]] = {"used": [], "never used": [], "own": []}
    async with bench.side(OURS, bench.setup(4)) as (_, transport):

        async def probe(user: str, tenant: str) -> float:
            return await _first_token(transport, bench.work.question(user, 2, tenant=tenant))

        await probe("Hello.", "tenant-a")
        await probe("Hello.", "tenant-b")
        for _ in range(_PROBES):
            used, unused = text(source, _PROBE_WORDS), text(source, _PROBE_WORDS)
            await probe(used, "tenant-a")
            pair = [("used", used), ("never used", unused)]
            source.shuffle(pair)
            for kind, user in pair:
                times[kind].append(await probe(user, "tenant-b"))
            times["own"].append(await probe(used, "tenant-a"))
    _add_probing(bench, times)


def _add_probing(bench: Bench, times: dict[str, list[float]]) -> None:
    add, case = bench.report.add, f"{_PROBES} prompts of {_PROBE_WORDS} tokens"
    middles = {kind: median(each) for kind, each in times.items()}
    add(
        at_least(
            "p of no difference to another tenant",
            case,
            "",
            rank_sum_p(times["used"], times["never used"]),
            needed=_P_NEEDED,
        )
    )
    apart = max(middles["used"], middles["never used"]) / min(middles["used"], middles["never used"])
    add(within("medians of used and never used prompts apart", case, "times", apart, allowed=_MEDIANS_ALLOWED))
    own = rank_sum_p(times["own"], times["never used"])
    add(within("p of no difference to the tenant itself", f"{case}, positive control", "", own, allowed=_P_NEEDED))
    again = against_peer(
        *("TTFT of a tenant's own prompt again", case, "ms", middles["own"] * MS, middles["never used"] * MS),
        peer_name="a new one",
    )
    add(again)


async def stall(bench: Bench) -> None:
    """Eight users read their answers when a prompt of 4,000 tokens comes."""
    ratios: dict[str, float] = {}
    waits: dict[str, float] = {}
    for name in (OURS, LLAMA_SERVER):
        async with bench.side(name, bench.setup(_USERS + 1, _LONG_CONTEXT)) as (_, transport):
            ratios[name], waits[name] = await _worst_gap(bench, transport)
    metric, case = "worst gap beside the steady median", f"{_USERS} users, a prompt of 4,000 tokens comes"
    bench.report.add(within(metric, f"{case}, ours", "times", ratios[OURS], allowed=_GAP_BAR))
    against = partial(against_peer, case=case, peer_name=LLAMA_SERVER)
    bench.report.add(against(metric, unit="times", ours=ratios[OURS], peer=ratios[LLAMA_SERVER]))
    bench.report.add(against("TTFT of the long prompt", unit="s", ours=waits[OURS], peer=waits[LLAMA_SERVER]))


async def _worst_gap(bench: Bench, transport: Transport) -> tuple[float, float]:
    """The longest gap of a user while the long prompt is read, beside the median before; seconds until it was read."""
    source = random.Random("stall")
    users = [Answer(bench.work.question(text(source, 30), _LONG_ANSWER, seed=place)) for place in range(_USERS)]
    tasks = [asyncio.create_task(transport.ask(answer.question, answer)) for answer in users]
    try:
        while not all(answer.pieces for answer in users):  # it is filled by what reads a socket
            _still_streaming(users)
            await asyncio.sleep(0.01)
        steady_from = time.monotonic() + 0.5
        await asyncio.sleep(0.5 + bench.seconds(_STEADY_SECONDS))
        arrived = time.monotonic()
        wait = await _first_token(transport, bench.work.question(text(source, _LONG_WORDS), 1))
        answered = time.monotonic()
        await asyncio.sleep(0.5)
        _still_streaming(users)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    steady, during = _gaps(users, steady_from, arrived), _gaps(users, arrived, answered + 0.5)
    if not steady or not during:
        raise BenchFailed("the streaming users got no tokens to measure")
    return max(during) / median(steady), wait


def _still_streaming(users: list[Answer]) -> None:
    for answer in users:
        if answer.error or answer.whole:
            raise BenchFailed(f"an answer that should have gone on has ended: {answer.error or 'it is whole'}")


def _gaps(answers: list[Answer], since: float, until: float) -> list[float]:
    """Seconds between pieces that arrived in this time; a gap that began before counts."""
    return [
        later - sooner
        for answer in answers
        for sooner, later in zip(answer.pieces, answer.pieces[1:], strict=False)
        if since <= later < until
    ]


async def fairness(bench: Bench) -> None:
    """Two tenants share four slots; one has ten times the clients of the other, who has enough to use half of them.

    All questions are equally much work, so that tokens of answers tell who was served.
    """
    work = bench.work.all_alike(_FAIR_PROMPT, _FAIR_ANSWER)
    shares: dict[str, float] = {}
    for name in (OURS, LLAMA_SERVER):
        streams = [
            work.stream(f"{tenant}, number {number}", tenant=tenant)
            for tenant, clients in _FAIR_CLIENTS.items()
            for number in range(clients)
        ]
        async with bench.side(name, bench.setup(_FAIR_SLOTS)) as (_, transport):
            seen: Seen = bench.kept(
                await closed_loop(
                    transport,
                    streams,
                    bench.seconds(_FAIR_SECONDS),
                    longest_warm_up=_FAIR_WARM_UP,
                    see_all_first_tokens=False,
                )
            )
        tokens = [seen.tokens(tenant=tenant) for tenant in _FAIR_CLIENTS]
        if not any(tokens):
            raise BenchFailed(f"{name} served nothing in {seen.seconds:.0f} s")
        shares[name] = max(tokens) / (sum(tokens) / len(tokens))
    metric, case = "tokens of the tenant served most, beside an equal share", "40 clients and 4"
    bench.report.add(within(metric, f"{case}, ours", "times", shares[OURS], allowed=_FAIR_BAR))
    bench.report.add(against_peer(metric, case, "times", shares[OURS], shares[LLAMA_SERVER], peer_name=LLAMA_SERVER))


async def _first_token(transport: Transport, question: Question) -> float:
    answer = await ask(transport, question)
    if answer.first_token is None:
        raise BenchFailed(f"no answer: {answer.error or 'it was empty'}")
    return answer.first_token
