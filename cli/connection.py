"""What the commands share: a channel to a node, errors in our words, an event loop."""

import asyncio
import getpass
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, TypeVar

import grpc
import typer

from deltaic.rpc.channel import open_channel
from deltaic.rpc.status import from_rpc_error

T = TypeVar("T")
Page = TypeVar("Page")
Item = TypeVar("Item")

CALL_SECONDS = 15.0

CenterOption = Annotated[
    str, typer.Option("--center", envvar="DELTAIC_CENTER", help="Address of the center.", show_default=True)
]
NodeOption = Annotated[
    str,
    typer.Option("--node", envvar="DELTAIC_NODE", help="Address of the node to ask: an edge, a device or the center."),
]

DEFAULT_CENTER = "127.0.0.1:7400"
DEFAULT_NODE = "127.0.0.1:7410"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C cancels it and exits with 130, SIGTERM with 143."""
    try:
        return asyncio.run(_until_terminated(work))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except _Terminated:
        print("terminated", file=sys.stderr)
        raise typer.Exit(143) from None


class _Terminated(Exception):
    """SIGTERM came."""


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM cancels the work, so that it can stop what it has started. Raises _Terminated then."""
    task, came = asyncio.current_task(), False

    def terminated() -> None:
        nonlocal came
        came = True
        assert task is not None, "a coroutine that runs is in a task"
        task.cancel()

    with suppress(RuntimeError, ValueError):  # outside of a main thread no signal comes
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated)
    try:
        return await work
    except asyncio.CancelledError:
        if came:
            raise _Terminated from None
        raise


@asynccontextmanager
async def connected(target: str, what: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `target`; a failed call inside becomes a DeltaicError that names `what` and the address."""
    async with open_channel(target, node=caller_name()) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise from_rpc_error(error, f"{what} {target}") from None


async def all_pages(
    call: Callable[..., Awaitable[Page]], request: Any, items: Callable[[Page], Iterable[Item]]
) -> list[Item]:
    """What every page of a List call holds. `request` is sent again with the token of the page before."""
    found: list[Item] = []
    while True:
        page: Any = await call(request, timeout=CALL_SECONDS)
        found.extend(items(page))
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def caller_name() -> str:
    """`user@host`: what the audit log shows until callers carry certificates."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
