#!/usr/bin/env python3
"""Which models stay loaded: the edge's policy beside those of others, on made traces with a simulated machine.

The code that decides is that of `edge/hot`, not a copy. No model is loaded: seconds are those of the simulated machine,
the same for every side, so the ratios do not depend on what this one has to do. `--quick` takes one seed.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import geometric_mean, mean

from harness import Report, against_peer, finish
from hotset_machine import SPEEDS, Machine, Simulation
from hotset_trace import Shape, Trace, make_trace

from edge.hot.load_costs import START_SECONDS, Tier
from edge.hot.offline import Foreseeing, least_seconds
from edge.hot.policy import HotPolicy, LeastExpectedCost
from edge.hot.rates import Rates
from edge.hot.rivals import GDSF, ByteLRU, CountLRU, LargestFirst, Sieve

OURS, ALONE = "ours", "ours, without prefetch"
LRU, OFFLINE, LEAST = "byte-LRU", "best offline greedy", "what no policy can avoid"
RIVALS: Mapping[str, Callable[[], HotPolicy]] = {
    LRU: ByteLRU,
    "count-LRU of 4": lambda: CountLRU(4),
    "SIEVE": Sieve,
    "GDSF": GDSF,
    "largest first": LargestFirst,
}
POWERS = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5), (0.75, 1.0))
"""Of size and cost in the offline rule: the best of them on each trace is what we are measured beside."""
BUDGETS = (20, 30, 40, 50)
PAGE_CACHE = 10
"""Budget and page cache in percent of all models' bytes."""
SEEDS = range(8)
LRU_BAR, OFFLINE_BAR = 0.8, 1.25

NOTES = """\
Seconds that requests wait for loads, by request. Traces: {models} models of 0.1 to 29 GB (sizes of real files),
{days} days, visits by Zipf {zipf} whose order drifts every {drift:g} hours, {burst:g} requests a visit on average and
seconds apart, offices' hours, {jobs} models that a job asks for every weekday; {seeds} seeds, about {requests:,}
requests each. Three of four models rest on the edge's disk, the others at a peer or, small ones only, at the center.
The simulated machine loads {speeds}, after {start} s for the process, all of it with noise; its page cache holds
{cache} % of all bytes. Budgets are percent of all models' bytes, and never less than the largest model. Every request
must be answered here: what is not loaded is loaded. *Ours* is `LeastExpectedCost` with prefetch into room that is
free, whose seconds nobody waits for (`background`); *without prefetch* is the policy alone. The offline greedy knows
every request to come, and loads only on demand: of {powers} exponents of size and cost the best on each trace. *What
no policy can avoid* is a lower bound (PFOO-L, with every load after the first from the page cache) that takes the
memory for divisible: nobody may be able to reach it. Amounts are geometric means over seeds, and over budgets in the
rows that have the bars."""


@dataclass(frozen=True, slots=True)
class Case:
    """Seconds a request of every side, with one seed and budget."""

    seed: int
    budget: int
    requests: int
    seconds: Mapping[str, float]
    background: float


def measured(seed: int, percent: int) -> Case:
    """All sides on one trace."""
    trace = make_trace(Shape(), seed)
    total = sum(model.size for model in trace.models)
    budget = max(total * percent // 100, *(model.size for model in trace.models))
    machine = Machine(budget, total * PAGE_CACHE // 100)

    def waited(policy: HotPolicy) -> float:
        return Simulation(trace, machine, policy, seed).run().seconds_a_request

    rates = Rates()
    ours = Simulation(trace, machine, LeastExpectedCost(rates), seed).run(rates)
    seconds = {name: waited(make()) for name, make in RIVALS.items()}
    seconds[OURS] = ours.seconds_a_request
    seconds[ALONE] = waited(LeastExpectedCost(Rates()))
    times = _times(trace)
    seconds[OFFLINE] = min(waited(Foreseeing(times, size=size, cost=cost)) for size, cost in POWERS)
    seconds[LEAST] = _least(trace, machine)
    return Case(seed, percent, len(trace.requests), seconds, ours.background_seconds / len(trace.requests))


def _times(trace: Trace) -> Mapping[str, Sequence[float]]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for at, name in trace.requests:
        times[name].append(at)
    return times


def _least(trace: Trace, machine: Machine) -> float:
    sizes = {model.name: model.size for model in trace.models}
    near = {
        model.name: START_SECONDS
        + model.size / SPEEDS[Tier.PAGE_CACHE if model.size <= machine.page_cache else Tier(model.home)]
        for model in trace.models
    }
    return least_seconds(trace.requests, sizes, near, machine.budget) / len(trace.requests)


def add_rows(report: Report, cases: Sequence[Case]) -> None:
    """Over everything first, with the bars; then by budget."""
    everywhere = f"{len(cases)} traces and budgets"
    for peer in (*RIVALS, OFFLINE, LEAST):
        bar = {LRU: LRU_BAR, OFFLINE: OFFLINE_BAR}.get(peer)
        _add(report, cases, everywhere, OURS, peer, bar)
    for peer in (LRU, OFFLINE):
        _add(report, cases, everywhere, ALONE, peer, None)
    for percent in sorted({case.budget for case in cases}):
        some = [case for case in cases if case.budget == percent]
        for side, peer in ((OURS, LRU), (ALONE, LRU), ("GDSF", LRU), (OFFLINE, LRU), (OURS, OFFLINE)):
            _add(report, some, f"budget {percent} %", side, peer, None)
        background, waited = mean(each.background for each in some), mean(each.seconds[OURS] for each in some)
        report.add(
            against_peer(
                "background seconds", f"budget {percent} %", "s a request", background, waited, peer_name="its waiting"
            )
        )


def _add(report: Report, cases: Sequence[Case], case: str, side: str, peer: str, bar: float | None) -> None:
    """One row. Amounts are geometric means, so that their ratio is the geometric mean of the cases' ratios."""
    ours, theirs = (geometric_mean(each.seconds[name] for each in cases) for name in (side, peer))
    runs = {name: [round(each.seconds[name], 4) for each in cases] for name in (side, peer)}
    metric = "load time" if side == OURS else f"load time of {side.removeprefix('ours, ')}"
    report.add(against_peer(metric, case, "s a request", ours, theirs, peer_name=peer, bar=bar, runs=runs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, not recorded")
    parser.add_argument("--processes", type=int, default=None, help="at a time; by default one for each core")
    options = parser.parse_args()
    seeds = SEEDS[:1] if options.quick else SEEDS
    jobs = [(seed, percent) for percent in BUDGETS for seed in seeds]
    with ProcessPoolExecutor(options.processes) as pool:
        cases = list(pool.map(measured, *zip(*jobs, strict=True)))
    report = Report("hotset", "make bench-hotset", notes=_notes(cases, len(seeds)))
    add_rows(report, cases)
    if options.quick:
        print(f"    {'every bar holds' if report.holds else 'NOT every bar holds'}; a quick run is not recorded")
        return 0 if report.holds else 1
    return finish(report)


def _notes(cases: Sequence[Case], seeds: int) -> str:
    shape = Shape()
    words = {Tier.PAGE_CACHE: "from the page cache", Tier.DISK: "from disk", Tier.PEER: "from a peer"}
    speeds = [f"{words.get(tier, 'from the center')} {speed / 1e9:g} GB/s" for tier, speed in SPEEDS.items()]
    return NOTES.format(
        models=shape.models,
        days=shape.days,
        zipf=shape.zipf,
        drift=shape.drift_hours,
        burst=shape.burst,
        jobs=shape.jobs,
        seeds=seeds,
        requests=round(mean(case.requests for case in cases), -2),
        speeds=", ".join(speeds),
        start=START_SECONDS,
        cache=PAGE_CACHE,
        powers=len(POWERS),
    )


if __name__ == "__main__":
    sys.exit(main())
