"""`deltaic center`, `deltaic edge`, `deltaic device`: run a role. Their flags are the fields of their settings.

A role has no positional arguments, so a word in the first place is another command: `deltaic center gc`,
`deltaic edge status`.
"""

from collections.abc import Callable, Sequence

import typer

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _center(argv: Sequence[str]) -> int:
    from center.__main__ import main

    return main(argv)


def _edge(argv: Sequence[str]) -> int:
    from edge.__main__ import main

    return main(argv)


def _device(argv: Sequence[str]) -> int:
    from device.__main__ import main

    return main(argv)


def _gc(argv: Sequence[str]) -> int:
    from cli.collect import main

    return main(argv)


def _operate(command: str) -> Callable[[Sequence[str]], int]:
    def operate(argv: Sequence[str]) -> int:
        from cli.edge import main

        return main(command, argv)

    return operate


_INSTEAD: dict[tuple[str, str], Callable[[Sequence[str]], int]] = {
    ("center", "gc"): _gc,
    **{("edge", word): _operate(word) for word in ("status", "drain", "reload")},
}


def _command(role: str, run: Callable[[Sequence[str]], int]) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        instead = _INSTEAD.get((role, context.args[0])) if context.args else None
        raise typer.Exit(instead(context.args[1:]) if instead else run(context.args))

    return command


def register(app: typer.Typer) -> None:
    """Add the three roles; each is imported only when it runs."""
    roles = (
        (
            "center",
            _center,
            "Run a center: it keeps models, versions and channels, and answers what edges cannot; center gc frees.",
        ),
        (
            "edge",
            _edge,
            "Run an edge: it answers a branch and feeds its devices; edge status, drain, reload are for one that runs.",
        ),
        (
            "device",
            _device,
            "Run a device: it answers sensitive requests where they arise and forwards only public ones.",
        ),
    )
    for name, run, text in roles:
        app.command(name, help=text, context_settings=_PASS_ON, rich_help_panel="Run a role")(_command(name, run))
