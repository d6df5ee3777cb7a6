"""The arithmetic of the branch bench: what a round trip is, who is asked most, what counts against the branch."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest
from branch_line import BranchLine
from branch_turns import Outcomes, Popular, Turns


def test_a_pipeline_that_comes_in_pieces_is_one_round_trip() -> None:
    turns = Turns()
    for asks in (True, True, True, False, False, True, False):
        turns.saw(b"*1\r\n$4\r\nPING\r\n", asks=asks)
    assert turns.count == 2
    assert not turns.transacts


def test_what_a_server_says_unasked_begins_none() -> None:
    turns = Turns()
    turns.saw(b"+PONG\r\n", asks=False)
    assert turns.count == 0
    turns.saw(b"*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nEXEC\r\n", asks=True)
    assert turns.count == 1
    assert turns.transacts


def test_the_first_names_are_drawn_most_often_and_the_last_ones_too_seldom_to_matter() -> None:
    names = [f"model{number}" for number in range(8)]
    dice = random.Random(1)
    drawn = Counter(Popular(names).draw(dice) for _ in range(20_000))
    counts = [drawn[name] for name in names]
    assert all(sooner > later for sooner, later in pairwise(counts))
    assert counts[-1] / sum(counts) == pytest.approx(0.06, abs=0.01)


def test_a_failed_request_counts_against_the_branch() -> None:
    seen = Outcomes(by_node=Counter({"edge@one": 6, "center@here": 2}), in_branch=6)
    assert seen.branch_share == 0.75
    seen.failures["smollm2: UNAVAILABLE NOT_COMPLETE_YET"] += 2
    assert seen.branch_share == 0.6
    assert seen.named() == "2 times smollm2: UNAVAILABLE NOT_COMPLETE_YET"


def test_without_a_request_there_is_no_share() -> None:
    with pytest.raises(ValueError, match="no request"):
        _ = Outcomes().branch_share


async def test_the_line_counts_what_comes_down_and_lets_nothing_through_while_it_is_cut() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(1):
                writer.write(b"x" * 1000)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, BranchLine(server.sockets[0].getsockname()[1]).listening() as line:
        host, _, port = line.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"?")
        await reader.readexactly(1000)
        assert line.down_bytes == 1000
        line.cut()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        again, closing = await asyncio.open_connection(host, int(port))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await again.readexactly(1)
        line.mend()
        reader, mended = await asyncio.open_connection(host, int(port))
        mended.write(b"?")
        await reader.readexactly(1000)
        assert line.down_bytes == 2000
        for each in (writer, closing, mended):
            each.close()
            with suppress(ConnectionError):
                await each.wait_closed()
        line.cut()
        await asyncio.sleep(0)
