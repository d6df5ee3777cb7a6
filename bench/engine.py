#!/usr/bin/env python3
"""The engine beside llama-server, with the same model, threads, slots and questions, one side at a time.

make bench-engine                                    everything, about 15 minutes on two cores
make bench-engine ARGS="--quick"                     few clients, short windows; not recorded
make bench-engine ARGS="--parts closed --clients 16"
make bench-engine ARGS="--gpu-layers -1 --clients 1 4 8 16 32 64 --record engine-gpu"    on a machine with a GPU
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import engine_fleet_parts
import engine_parts
from engine_bench import QUICK, Bench
from engine_figures import LOAD_CPU_ALLOWED
from engine_work import Work, ends_of_turn
from harness import BenchFailed, Report, finish, within

from deltaic.engine.native.backends import VARIABLE

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "closed": engine_parts.closed,
    "open": engine_parts.poisson,
    "python": engine_parts.python,
    "hops": engine_parts.hops,
    "prefix": engine_fleet_parts.prefix,
    "probing": engine_fleet_parts.probing,
    "stall": engine_fleet_parts.stall,
    "fairness": engine_fleet_parts.fairness,
}
USUAL_MINUTES = 15.0
NOTES = """\
Both sides are processes of their own that answer with the same model file, the same threads, as many slots as there
are clients, and the same questions: 60 to 200 prompt tokens, 64 to 128 answer tokens. One side runs at a time; rounds
begin with another side each. *Clients* are a closed loop: each asks again as soon as it has its answer; the window
opens when all have had a first one, of random length. *Arrivals* are a Poisson process, the same moments for both
sides, on as many slots as clients gave the capacity. All times are those that a client sees, from connecting to the
text of a token. Every side has the environment of the bench; our node sets GOMP_SPINCOUNT for its workers, as it
always does. llama-server is that of the xllamacpp package with its default batches, caches and sampling;
llama_cpp.server is `python -m llama_cpp.server`, which answers one request at a time. The tenants' test is
Mann-Whitney's, two-sided, by 20,000 permutations; its positive control is the tenant that used the prompts itself."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16, 32], help="at the same time")
    parser.add_argument("--minutes", type=float, default=USUAL_MINUTES, help="that a run with all parts may take")
    parser.add_argument("--rounds", type=int, default=2, help="of each side, begun with another one each")
    parser.add_argument("--quick", action="store_true", help="1, 4 and 8 clients, short windows, one round")
    parser.add_argument("--model", type=Path, default=models_folder() / MODEL, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2, help="of every side")
    parser.add_argument("--gpu-layers", type=int, default=0, help="of every side; -1 is all")
    parser.add_argument(
        "--cpu", default="", help="CPU code of ours, haswell for that of the peer's package; else the best"
    )
    parser.add_argument("--greedy", action="store_true", help="instead of temperature 0.8 with seeds")
    parser.add_argument("--turns-may-end", action="store_true", help="do not forbid the tokens that end an answer")
    parser.add_argument("--record", default="engine", help="name of the results and of their table")
    options = parser.parse_args()
    if options.cpu:
        os.environ[VARIABLE] = options.cpu
    if options.quick:
        options.clients, options.rounds = [each for each in options.clients if each <= 8] or [4], 1
    return options


def models_folder() -> Path:
    return Path(os.environ.get("DELTAIC_MODELS") or Path.home() / ".cache" / "deltaic" / "models")


async def run(bench: Bench, parts: list[str], minutes: float) -> None:
    """One part after the other; none is begun after the minutes are over."""
    until = time.monotonic() + 60 * minutes
    late: list[str] = []
    for name in parts:
        if time.monotonic() > until:
            late.append(name)
            continue
        print(f"    -- {name}", flush=True)
        try:
            await PARTS[name](bench)
        except BenchFailed as error:  # what was measured so far is worth keeping
            bench.failures.append(name)
            bench.report.note(f"The part `{name}` was not measured to its end: {error}")
            print(f"bench-engine: {name}: {error}", file=sys.stderr)
    share = bench.load_share()
    bench.report.add(within("the load generator", "its busiest window", "% of a core", share, allowed=LOAD_CPU_ALLOWED))
    for name, backend in bench.backends.items():
        bench.report.note(f"{name} says that it uses: {backend}. It was asked by {bench.fronts[name]}.")
    if late:
        bench.report.note(f"Not measured, since the {minutes:g} minutes were over: {', '.join(late)}.")
    if absent := sorted(set(PARTS) - set(parts)):
        bench.report.note(f"Left out of this run: {', '.join(absent)}.")


def main() -> int:
    options = parsed()
    if not options.model.exists():
        print(f"bench-engine: {options.model} is missing: run make models", file=sys.stderr)
        return 1
    arguments = f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else ""
    report = Report(options.record, f"make bench-engine{arguments}", notes=NOTES)
    temperature = 0.0 if options.greedy else 0.8
    lengths = "turns end where the model ends them" if options.turns_may_end else "ends of turn forbidden"
    settings = f"{options.threads} threads, GPU layers {options.gpu_layers}, temperature {temperature}, {lengths}"
    report.note(f"{options.model.name}, {settings}.")
    bench = Bench(
        report=report,
        model=options.model,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
        clients=options.clients,
        work=Work(temperature, [] if options.turns_may_end else ends_of_turn(options.model)),
        scale=QUICK if options.quick else options.minutes / USUAL_MINUTES,
        rounds=options.rounds,
    )
    asyncio.run(run(bench, options.parts, options.minutes))
    if options.quick:
        print(f"    {'every bar holds' if report.holds else 'NOT every bar holds'}; a quick run is not recorded")
        return int(not report.holds or bool(bench.failures))
    return finish(report) or int(bool(bench.failures))


if __name__ == "__main__":
    raise SystemExit(main())
