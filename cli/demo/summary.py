"""The demo's findings for people and for scripts."""

from rich.console import Group
from rich.filesize import decimal
from rich.panel import Panel
from rich.table import Table

from cli.demo.result import Result
from cli.screen import console
from deltaic.names import RevisionName


def as_dict(result: Result) -> dict[str, object]:
    """One JSON object. Times say their unit; byte counts are what crossed the line."""
    return {
        "held": result.held,
        "revisions": [RevisionName.parse(update.revision).revision for update in result.updates],
        "updates": [
            {
                "version": update.version,
                "revision": update.revision,
                "full_bytes": update.full_bytes,
                "update_bytes": update.update_bytes,
                "device_update_bytes": update.device_bytes,
                "delta_bytes": update.delta_bytes,
                "device_delta_bytes": update.device_delta_bytes,
                "way": update.way,
                "rollout_seconds": round(update.rollout_seconds, 3),
                "swap_seconds": round(update.swap_seconds, 3),
            }
            for update in result.updates
        ],
        "requests": len(result.answers),
        "failed": result.failed,
        "answered_by": {node: result.answered_by(node) for node in ("edge", "device", "center")},
        "edge_share": round(result.edge_share, 4),
        "answered_by_second_edge": result.neighbour_answers,
        "second_edge_center_bytes": result.second_edge_bytes,
        "swap_seconds": round(result.swap_seconds, 3),
        "tokens_per_second": round(result.tokens_per_second, 1),
        "time_to_first_token_ms": round(result.first_token_ms, 1),
        "sensitive_requests": result.sensitive_requests,
        "sensitive_bytes_out": result.sensitive_bytes_out,
        "checks": [{"name": check.name, "held": check.held, "detail": check.detail} for check in result.checks],
    }


def print_summary(result: Result) -> None:
    """A page that a person enjoys reading."""
    verdict = "[bold green]Every check held.[/]" if result.held else "[bold red]Not every check held.[/]"
    console.print(
        Panel(
            Group(_updates(result), "", _answers(result), "", _checks(result), "", verdict),
            title="[bold]Deltaic: a model's journey[/]",
            expand=False,
            padding=(1, 2),
        )
    )


def _updates(result: Result) -> Table:
    table = Table(
        "version", "revision", "file", "to the edge", "to the device", "share", "by", "rollout", "swap", box=None
    )
    for update in result.updates:
        table.add_row(
            update.version,
            RevisionName.parse(update.revision).hex[:12],
            decimal(update.full_bytes),
            decimal(update.update_bytes),
            decimal(update.device_bytes),
            f"{update.share:.2%}",
            update.way,
            f"{update.rollout_seconds:.1f} s",
            f"{update.swap_seconds:.1f} s",
        )
    return table


def _answers(result: Result) -> Table:
    table = Table(box=None, show_header=False)
    by = ", ".join(f"{node} {result.answered_by(node)}" for node in ("edge", "device", "center"))
    table.add_row("requests", f"{len(result.answers)}, of which {result.failed} failed")
    table.add_row("answered by", f"{by} (edge {result.edge_share:.0%})")
    table.add_row(
        "second edge",
        f"{result.neighbour_answers} answers to requests at the first; "
        f"{decimal(result.second_edge_bytes)} from the center for version 1",
    )
    table.add_row(
        "speed", f"{result.tokens_per_second:.0f} tokens/s in all, first token after {result.first_token_ms:.0f} ms"
    )
    table.add_row(
        "sensitive",
        f"{result.sensitive_requests} requests, of which {result.sensitive_bytes_out} bytes left the device",
    )
    table.add_row("Who are you?", f"v1: [italic]{result.before}[/]")
    table.add_row("", f"v2: [italic]{result.after}[/]")
    return table


def _checks(result: Result) -> Table:
    table = Table(box=None, show_header=False)
    for check in result.checks:
        table.add_row("[green]✓[/]" if check.held else "[bold red]✗[/]", check.name, f"[dim]{check.detail}[/]")
    return table
