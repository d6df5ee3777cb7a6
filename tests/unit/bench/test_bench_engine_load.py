"""The load of the engine bench asks what it should and counts what a client sees."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice

import pytest
from engine_figures import add_comparison, figures
from engine_load import Seen, closed_loop, open_loop
from engine_transports import Answer, OpenAI, Transport
from engine_work import Question, Work
from harness import BenchFailed, Report

WORK = Work(0.8, [2])


@dataclass
class Echo:
    """Answers at once, a piece for every token."""

    refuse: bool = False
    running: int = 0
    most: int = 0
    asked: list[Question] = field(default_factory=list)

    async def ask(self, question: Question, answer: Answer) -> None:
        self.asked.append(question)
        answer.sent = time.monotonic()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.refuse:
                answer.error = "the queue is full"
                return
            for _ in range(question.max_tokens):
                await asyncio.sleep(0)
                answer.pieces.append(time.monotonic())
            answer.tokens, answer.whole = question.max_tokens, True
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing to close."""


def test_questions_of_one_name_are_the_same_for_every_side() -> None:
    first, again, other = (list(islice(WORK.stream(name), 20)) for name in ("a", "a", "b"))
    assert first == again
    assert not {question.user for question in first} & {question.user for question in other}
    assert all(64 <= question.max_tokens <= 128 and question.forbidden == [2] for question in first)
    assert {len(question.user.split()) > 90 for question in first} == {True, False}


async def test_a_closed_loop_has_as_many_questions_running_as_clients() -> None:
    server: Transport = (echo := Echo())
    seen = await closed_loop(server, [WORK.stream(f"client {number}") for number in range(3)], 0.2)
    assert echo.most == 3
    assert len(seen.asked) >= 3
    assert seen.first_tokens()
    assert sum(seen.within(moment) for each in seen.answers for moment in each.pieces) == seen.tokens()
    assert not seen.errors


async def test_what_was_sent_in_the_window_has_its_first_token_waited_for() -> None:
    class Slow(Echo):
        """Its third question, sent in the window, has its first token long after it."""

        async def ask(self, question: Question, answer: Answer) -> None:
            if not self.asked:
                return await super().ask(question, answer)
            self.asked.append(question)
            answer.sent = time.monotonic()
            await asyncio.sleep(0.05 if len(self.asked) == 2 else 0.6)
            answer.pieces.append(time.monotonic())
            if len(self.asked) > 2:
                await asyncio.sleep(60)  # and its rest is cut off
            return None

    seen = await closed_loop(Slow(), [WORK.stream("only")], 0.2)
    assert len(seen.answers) == 3
    assert seen.answers[-1].first_token in seen.first_tokens()
    assert not seen.answers[-1].whole


async def test_a_server_that_refuses_the_first_question_is_no_side() -> None:
    with pytest.raises(BenchFailed, match="the queue is full"):
        await closed_loop(Echo(refuse=True), [WORK.stream("refused")], 0.1)


async def test_an_open_loop_asks_at_the_moments_given() -> None:
    seen = await open_loop(echo := Echo(), WORK.stream("open"), [0.0, 0.05, 0.1], 0.15)
    assert len(echo.asked) == len(seen.answers) == 3
    assert seen.answers[2].sent - seen.answers[0].sent == pytest.approx(0.1, abs=0.09)


def _seen(first: float, gap: float, tokens: int, *, errors: int = 0) -> Seen:
    answer = Answer(Question("", tokens), sent=10.0, tokens=tokens, whole=True)
    answer.pieces = [10.0 + first + gap * number for number in range(tokens)]
    refused = [Answer(Question("", 1), sent=10.5, error="full") for _ in range(errors)]
    return Seen(opened=10.0, closed=20.0, answers=[answer, *refused], cpu_s=0.5)


def test_tokens_and_gaps_outside_of_the_window_do_not_count() -> None:
    seen = _seen(1.0, 1.0, 20)  # pieces at 11, 12, ... 30; the window ends before 20
    assert seen.tokens() == 9
    assert len(seen.gaps()) == 8
    assert seen.first_tokens() == [1.0]


def test_pieces_of_several_tokens_count_as_what_whole_answers_had() -> None:
    seen = _seen(1.0, 1.0, 20)
    seen.answers[0].tokens = 40
    assert seen.tokens() == 18


def test_a_comparison_has_throughput_latencies_and_failures() -> None:
    report = Report("test", "make test")
    own, peer = figures("ours", [_seen(0.2, 0.1, 80)]), figures("peer", [_seen(0.1, 0.1, 80, errors=2)])
    add_comparison(report, "1 client", own, peer, "peer")
    rows = {(row.metric, row.case): row for row in report.rows}
    assert rows["time for 1,000 tokens", "1 client"].ours == pytest.approx(125.0)
    assert rows["TTFT, p50", "1 client"].ratio == pytest.approx(2.0)
    assert rows["TTFT, p50", "1 client"].holds is False
    assert rows["gap between tokens, p99", "1 client"].ratio == pytest.approx(1.0)
    failed = rows["requests that failed", "1 client, peer"]
    assert (failed.ours, failed.bar) == (2, None)
    assert own.cpu_share == pytest.approx(0.05)


def test_latencies_that_were_not_seen_are_not_compared() -> None:
    seen = _seen(1.0, 1.0, 5)
    seen.answers[0].sent = 9.0  # before the window
    with pytest.raises(BenchFailed, match="raise --minutes"):
        add_comparison(Report("test", "make test"), "1 client", *[figures("either", [seen])] * 2, "peer", bar=None)


def test_a_side_that_gave_nothing_is_not_compared() -> None:
    with pytest.raises(BenchFailed, match="full"):
        figures("ours", [Seen(opened=10.0, closed=20.0, answers=[Answer(Question("", 1), sent=11.0, error="full")])])


@asynccontextmanager
async def _http(response: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives one response, a few bytes at a time, and keeps what it was sent."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split()[1])
        requests.append(head + await reader.readexactly(length))
        for start in range(0, len(response), 7):
            writer.write(response[start : start + 7])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


_USAGE = b'{"completion_tokens":3,"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}'
_EVENTS = [
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
    b": ping\n\n",
    b'data: {"choices":[{"delta":{"content":"On"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content": "ce"}}]}\n\n',
    b'data: {"choices":[],"usage":' + _USAGE + b"}\n\n",
    b"data: [DONE]\n\n",
]
_CHUNKED = b"".join(f"{len(event):x}\r\n".encode() + event + b"\r\n" for event in _EVENTS) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKED,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"".join(_EVENTS),
    ],
    ids=["chunked", "until it closes"],
)
async def test_events_with_text_are_pieces_and_usage_is_counted(response: bytes) -> None:
    async with _http(response) as (port, requests):
        answer = Answer(question := Question("Hi.", 3, tenant="t", forbidden=[2]))
        await OpenAI(port, "bench", tokens_by_tenant=True).ask(question, answer)
    assert (answer.error, answer.whole, len(answer.pieces)) == ("", True, 2)
    assert (answer.prompt_tokens, answer.tokens, answer.cached_tokens) == (9, 3, 4)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert b"Authorization: Bearer t" in head
    assert json.loads(body)["logit_bias"] == {"2": -100}


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull", "429 Too Many Requests full"),
        (b"HTTP/1.1 200 OK\r\nServer: s\r\n\r\n" + _EVENTS[2], "ended before"),
        (b'HTTP/1.1 200 OK\r\nServer: s\r\n\r\ndata: {"error":{"message":"died"}}\n\n', "died"),
        (b"HTTP/1.1 200 OK\r\n", "IncompleteReadError"),
    ],
)
async def test_an_answer_that_fails_says_why(response: bytes, why: str) -> None:
    async with _http(response) as (port, _):
        answer = Answer(question := Question("Hi.", 3))
        await OpenAI(port, "bench").ask(question, answer)
    assert why in answer.error
