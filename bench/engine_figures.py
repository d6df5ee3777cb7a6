"""From what a load saw to rows of a table. Everything is seconds or a ratio, smaller is better."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from engine_load import Seen
from engine_numbers import quantile
from harness import BenchFailed, Report, Row, against_peer, within

MS = 1000.0
LOAD_CPU_ALLOWED = 10.0
"""Percent of one core that the load generator may take."""
_TOO_SHORT = "nothing was refused, but the window is too short for this machine: raise --minutes"


@dataclass(frozen=True, slots=True)
class Figures:
    """One side under one load, over all rounds."""

    per_1000_tokens: Sequence[float]
    """Seconds for 1,000 tokens, by round."""
    first_tokens: Sequence[float]
    gaps: Sequence[float]
    errors: Sequence[str]
    cpu_share: float
    """Of one core, taken by the load generator."""

    @property
    def tokens_per_second(self) -> float:
        return 1000 / median(self.per_1000_tokens)


def figures(name: str, rounds: Sequence[Seen]) -> Figures:
    """Raises BenchFailed when no token came."""
    errors = [error for seen in rounds for error in seen.errors]
    pooled = [time for seen in rounds for time in seen.first_tokens()], [gap for seen in rounds for gap in seen.gaps()]
    tokens = [seen.tokens() for seen in rounds]
    if not all(tokens):
        raise BenchFailed(f"{name} gave no tokens to measure: {errors[0] if errors else _TOO_SHORT}")
    return Figures(
        [1000 * seen.seconds / count for seen, count in zip(rounds, tokens, strict=True)],
        *pooled,
        errors,
        sum(seen.cpu_s for seen in rounds) / sum(seen.seconds for seen in rounds),
    )


def throughput(case: str, own: Figures, peer: Figures, peer_name: str, bar: float | None) -> Row:
    return against_peer(
        "time for 1,000 tokens",
        case,
        "s",
        median(own.per_1000_tokens),
        median(peer.per_1000_tokens),
        peer_name=peer_name,
        bar=bar,
        runs={"ours": own.per_1000_tokens, peer_name: peer.per_1000_tokens},
    )


def latencies(case: str, own: Figures, peer: Figures, peer_name: str) -> list[Row]:
    """Both quantiles of the time to the first token, and of the gaps between tokens; the middle gap has no bar.

    Raises BenchFailed where a side had none.
    """
    if not all((own.first_tokens, peer.first_tokens, own.gaps, peer.gaps)):
        raise BenchFailed(f"{case}: no first tokens to compare: {_TOO_SHORT}")
    against = partial(against_peer, case=case, unit="ms", peer_name=peer_name)
    wanted = [
        ("TTFT, p50", own.first_tokens, peer.first_tokens, 0.5, 1.0),
        ("TTFT, p99", own.first_tokens, peer.first_tokens, 0.99, 1.0),
        ("gap between tokens, p50", own.gaps, peer.gaps, 0.5, None),
        ("gap between tokens, p99", own.gaps, peer.gaps, 0.99, 1.0),
    ]
    return [
        against(metric, ours=quantile(mine, at) * MS, peer=quantile(theirs, at) * MS, bar=bar)
        for metric, mine, theirs, at, bar in wanted
    ]


def add_comparison(
    report: Report, case: str, own: Figures, peer: Figures, peer_name: str, *, bar: float | None = 1.0
) -> None:
    """Throughput first, then latencies, then what failed and what the load took, where it is too much."""
    report.add(throughput(case, own, peer, peer_name, bar))
    add_latencies(report, case, own, peer, peer_name)


def add_latencies(report: Report, case: str, own: Figures, peer: Figures, peer_name: str) -> None:
    for row in latencies(case, own, peer, peer_name):
        report.add(row)
    if own.errors or peer.errors:
        report.add(within("requests that failed", f"{case}, ours", "requests", len(own.errors), allowed=0))
        failed = within("requests that failed", f"{case}, {peer_name}", "requests", len(peer.errors), allowed=0)
        report.add(without_bar(failed))


def without_bar(row: Row) -> Row:
    """To put others in proportion."""
    return Row(row.metric, row.case, row.unit, row.ours, row.peer, row.ratio, None, None, row.peer_name, row.runs)
