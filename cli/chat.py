"""`deltaic chat`, `deltaic ask`, `deltaic models`: talk to a model at any node."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.connection import CALL_SECONDS, DEFAULT_NODE, NodeOption, connected, run
from cli.fleet import role_word
from cli.screen import JsonOption, console, print_json
from cli.tables import is_terminal, print_line, print_rows
from cli.texts import checked, keep_foreign_bytes, read_stdin
from deltaic.errors import DeltaicError, InvalidArgument
from deltaic.v1 import inference_pb2
from deltaic.v1.inference_pb2_grpc import InferenceServiceStub

_PANEL = "Talk"
_ANSWER_SECONDS = 300.0
_MOST_TOKENS = 1_000_000


class Label(StrEnum):
    """What the user says about a prompt."""

    NONE = "none"
    PUBLIC = "public"
    SENSITIVE = "sensitive"


ModelArgument = Annotated[str, typer.Argument(help="MODEL, MODEL/CHANNEL, or models/MODEL/revisions/sha256:HEX.")]
LabelOption = Annotated[
    Label, typer.Option(help="Whether the prompt may leave a device; a device keeps what is not said to be public.")
]
TokensOption = Annotated[int, typer.Option("--max-tokens", "-n", min=1, max=_MOST_TOKENS, help="Longest answer.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", "-t", min=0.0, max=5.0, help="0 is greedy.")]
SystemOption = Annotated[str, typer.Option("--system", "-s", help="System prompt.")]


def register(app: typer.Typer) -> None:
    app.command("chat", rich_help_panel=_PANEL)(chat)
    app.command("ask", rich_help_panel=_PANEL)(ask)
    app.command("models", rich_help_panel=_PANEL)(models)


def chat(
    model: ModelArgument,
    node: NodeOption = DEFAULT_NODE,
    label: LabelOption = Label.NONE,
    system: SystemOption = "",
    max_tokens: TokensOption = 512,
    temperature: TemperatureOption = 0.7,
) -> None:
    """Talk to a model. Ctrl-C stops an answer, also on the server; Ctrl-D, or Ctrl-C at the prompt, leaves."""
    conversation = _opening(system)
    keep_foreign_bytes()
    with asyncio.Runner() as runner:
        while (line := _read_line()) is not None:
            if not line.strip():
                continue
            try:
                turn = [*conversation, inference_pb2.ChatMessage(role="user", content=checked(line, "this line"))]
                request = build_request(model, turn, label, max_tokens, temperature)
                answer = runner.run(_print_answer(node, request))
            except KeyboardInterrupt:
                console.print("\n[dim]stopped[/]")
                continue
            except DeltaicError as error:
                print_line(str(error), "red")
                continue
            conversation = [*turn, inference_pb2.ChatMessage(role="assistant", content=answer)]


def _opening(system: str) -> list[inference_pb2.ChatMessage]:
    return [inference_pb2.ChatMessage(role="system", content=checked(system, "--system"))] if system else []


def _read_line() -> str | None:
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return None


async def _print_answer(node: str, request: inference_pb2.GenerateRequest) -> str:
    text, end = "", None
    async for event in generate(node, request):
        if event.HasField("completion"):
            end = event.completion
        else:
            text += event.text
            sys.stdout.write(event.text)
            sys.stdout.flush()
    if end:
        print()
        print_line(describe(end), "dim")
    return text


def describe(end: inference_pb2.Completion) -> str:
    """Who answered, how fast: one line."""
    revision = end.revision.rpartition("sha256:")[2][:12]
    seconds = end.timings.decode_ms / 1000
    rate = f", {(end.usage.completion_tokens - 1) / seconds:.0f} tokens/s" if seconds else ""
    cut = ", cut at the limit" if end.finish_reason == inference_pb2.Completion.FINISH_REASON_LENGTH else ""
    return (
        f"{role_word(end.answered_by)} {end.node}, revision {revision}, first token after "
        f"{end.timings.first_token_ms:.0f} ms{rate}{cut}"
    )


def ask(
    model: ModelArgument,
    question: Annotated[str, typer.Argument(help="The question; '-' reads it from standard input.")],
    node: NodeOption = DEFAULT_NODE,
    label: LabelOption = Label.NONE,
    system: SystemOption = "",
    max_tokens: TokensOption = 256,
    temperature: TemperatureOption = 0.7,
    as_json: JsonOption = False,
) -> None:
    """Ask one question and print the answer as it comes."""
    text = read_stdin("the question") if question == "-" else checked(question, "the question")
    if not text.strip():
        raise InvalidArgument("the question is empty", hint="ask something")
    messages = [*_opening(system), inference_pb2.ChatMessage(role="user", content=text)]
    request = build_request(model, messages, label, max_tokens, temperature)
    if as_json:
        print_json(run(_whole_answer(node, request)))
    else:
        run(_print_answer(node, request))


async def _whole_answer(node: str, request: inference_pb2.GenerateRequest) -> dict[str, object]:
    events = [event async for event in generate(node, request)]
    text = "".join(event.text for event in events)
    return {"text": text, **MessageToDict(events[-1].completion, preserving_proto_field_name=True)}


def build_request(
    model: str,
    messages: Sequence[inference_pb2.ChatMessage],
    label: Label,
    max_tokens: int,
    temperature: float,
) -> inference_pb2.GenerateRequest:
    """What the options mean, in the words of the contract. Raises InvalidArgument."""
    sensitivity = {
        Label.NONE: inference_pb2.SENSITIVITY_UNSPECIFIED,
        Label.PUBLIC: inference_pb2.SENSITIVITY_PUBLIC,
        Label.SENSITIVE: inference_pb2.SENSITIVITY_SENSITIVE,
    }[label]
    return inference_pb2.GenerateRequest(
        model=checked(model, "the name of the model"),
        messages=messages,
        sampling=inference_pb2.Sampling(temperature=temperature),
        max_tokens=max_tokens,
        sensitivity=sensitivity,
    )


async def generate(
    node: str, request: inference_pb2.GenerateRequest, seconds: float = _ANSWER_SECONDS
) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
    """Stream an answer; leaving the loop, or being cancelled, cancels it on the server. Raises RemoteError."""
    async with connected(node, "node") as connection:
        call = InferenceServiceStub(connection).Generate(request, timeout=seconds)
        try:
            async for event in call:
                yield event
        finally:
            call.cancel()


def models(node: NodeOption = DEFAULT_NODE, as_json: JsonOption = False) -> None:
    """List what a node serves now."""
    served = run(_list_models(node))
    if as_json:
        print_json([MessageToDict(model, preserving_proto_field_name=True) for model in served])
        return
    rows = (
        (
            model.model.removeprefix("models/") if is_terminal() else model.model,
            model.channel.rpartition("/")[2],
            model.revision.rpartition("/")[2],
            str(model.context_tokens),
        )
        for model in served
    )
    print_rows(("model", "channel", "revision", "context"), rows, below=[("revision",)])


async def _list_models(node: str) -> list[inference_pb2.ServedModel]:
    async with connected(node, "node") as connection:
        request = inference_pb2.ListModelsRequest()
        answer = await InferenceServiceStub(connection).ListModels(request, timeout=CALL_SECONDS)
        return list(answer.models)
