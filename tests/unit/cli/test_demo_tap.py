"""The tap of the demo: an instrument that a privacy claim rests on."""

import asyncio

from cli.demo.tap import Tap


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(b"echo " + data)
        await writer.drain()
    writer.close()


async def _say(address: str, words: bytes) -> bytes:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(words)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_it_forwards_everything_and_counts_the_bytes_of_marks_that_went_out() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Tap(f"127.0.0.1:{port}").listening() as tap:
        assert await _say(tap.address, b"mark-one, mark-one again") == b"echo mark-one, mark-one again"
        assert tap.leaked(["mark-one"]) == 2 * len("mark-one")
        assert tap.leaked(["mark-two"]) == 0
        assert tap.leaked(["echo"]) == 0, "what comes in is not what goes out"
        assert tap.bytes_out == len("mark-one, mark-one again")


async def test_a_target_that_is_away_closes_the_caller_and_not_the_tap() -> None:
    async with Tap("127.0.0.1:1").listening() as tap:
        assert await _say(tap.address, b"anybody?") == b""
        assert await _say(tap.address, b"still there?") == b""
