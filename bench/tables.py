"""Results as Markdown, between markers of docs/benchmarks.md, ratios first."""

from collections.abc import Mapping, Sequence
from typing import Any

EMPTY_PAGE = "# Benchmarks\n"


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of the bench; markers that are not there are added at the end."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, found, rest = page.partition(start)
    if not found:
        return f"{page.rstrip()}\n\n{start}\n{text}\n{end}\n"
    _, ended, after = rest.partition(end)
    if not ended:
        raise ValueError(f"{start} has no {end}")
    return f"{before}{start}\n{text}\n{end}{after}"


def render(result: Mapping[str, Any]) -> str:
    """One table, and what it was measured on and with."""
    head = ["| ratio | bar | holds | metric | case | ours | peer | peer is |", "|--:|--:|:-:|---|---|--:|--:|---|"]
    rows = ["| " + " | ".join(_cells(row)) + " |" for row in result["rows"]]
    return "\n".join([*head, *rows, "", _measured(result)])


def line(row: Mapping[str, Any]) -> str:
    """One row for a terminal."""
    ratio, bar, holds, metric, case, ours, peer, peer_name = _cells(row)
    verdict = f" (bar {bar}: {holds})" if bar else ""
    return f"{ratio:>8}{verdict}  {metric}, {case}: {ours}, {peer_name} {peer}"


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    bar = "" if row["bar"] is None else f"{row['bar']:g}"
    holds = {True: "yes", False: "**no**", None: ""}[row["holds"]]
    unit = row["unit"]
    return (
        f"{row['ratio']:.3f}",
        bar,
        holds,
        row["metric"],
        row["case"],
        _amount(row["ours"], unit),
        _amount(row["peer"], unit),
        row["peer_name"],
    )


def _amount(value: float, unit: str) -> str:
    if value == int(value):
        return f"{int(value):,} {unit}".rstrip()
    return (f"{value:,.0f} {unit}" if value >= 1000 else f"{value:,.3g} {unit}").rstrip()


def _measured(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    changed = " with changes that are not committed" if result["dirty"] else ""
    notes = f"{result['notes']}\n\n" if result["notes"] else ""
    return (
        f"{notes}Measured by `{result['command']}` at {result['date']}, commit {result['commit'][:12]}{changed}, on "
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}; load at the start {machine['load_at_start']}."
    )
