"""The bodies that clients send, as pydantic models. Unknown fields are passed over, as OpenAI's own servers do.

A field that is known and would change the answer, but is not offered here, is refused. Ranges are the contract's.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

MAX_CHOICES = 16
MAX_MESSAGES = 4_096
MAX_PARTS = 1_024
MAX_PROMPTS = 16
MAX_INPUTS = 2_048
MAX_TOKENS = 1_000_000


def _one_or_many(what: str) -> Discriminator:
    def kind(value: object) -> str | None:
        return "<one>" if isinstance(value, str) else "<many>" if isinstance(value, list) else None

    return Discriminator(kind, custom_error_type="text_or_list", custom_error_message=f"write {what}")


def _not_offered(instead: str) -> BeforeValidator:
    def check(value: object) -> None:
        if value not in (None, False, "", [], {}):
            raise ValueError(f"this is not offered here; {instead}")

    return BeforeValidator(check)


class Body(BaseModel):
    """What all share: types are not bent, and no input is quoted in an error."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


class Part(Body):
    """A content part. Those of other types than text are refused where the request is built."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = Annotated[
    Annotated[str, Tag("<one>")] | Annotated[list[Part], Field(max_length=MAX_PARTS), Tag("<many>")],
    _one_or_many("a text or a list of content parts"),
]
Word = Annotated[str, Field(min_length=1, max_length=256)]


class CalledFunction(Body):
    name: Word
    arguments: str


class CalledTool(Body):
    id: Word
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Word | None = None
    tool_calls: Annotated[list[CalledTool], Field(max_length=128)] | None = None
    tool_call_id: Word | None = None


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: Word


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


def _choice_kind(value: object) -> str | None:
    return "<mode>" if isinstance(value, str) else "<named>" if isinstance(value, dict) else None


Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")] | Annotated[NamedTool, Tag("<named>")],
    Discriminator(_choice_kind, custom_error_type="tool_choice", custom_error_message="write a mode or a named tool"),
]


class JsonSchema(Body):
    name: Word | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Adapter(Body):
    name: Word
    scale: float | None = None


def _adapter_kind(value: object) -> str | None:
    return "<word>" if isinstance(value, str) else "<use>" if isinstance(value, dict) else None


AdapterUse = Annotated[
    Annotated[Word, Tag("<word>")] | Annotated[Adapter, Tag("<use>")],
    Discriminator(_adapter_kind, custom_error_type="adapter", custom_error_message="write a name, or name and scale"),
]


class StreamOptions(Body):
    include_usage: bool = False


class Asking(Body):
    """What every request may say beside its prompt."""

    model: Word
    user: str | None = None
    sensitivity: Literal["public", "sensitive"] | None = None
    priority: Literal["low", "normal", "high"] | None = None


class Sampled(Asking):
    """How tokens are chosen, for both kinds of completions."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1_024),
        ]
        | None
    ) = None
    stop: (
        Annotated[
            Annotated[Word, Tag("<one>")] | Annotated[list[Word], Field(max_length=16), Tag("<many>")],
            _one_or_many("a text or a list of texts"),
        ]
        | None
    ) = None
    grammar: Annotated[str, Field(min_length=1)] | None = None
    adapters: Annotated[list[AdapterUse], Field(max_length=8)] | None = None


class ChatBody(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Choice | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    functions: Annotated[None, _not_offered("use tools")] = None
    function_call: Annotated[None, _not_offered("use tool_choice")] = None
    audio: Annotated[None, _not_offered("answers are text")] = None
    web_search_options: Annotated[None, _not_offered("give the model a tool that searches")] = None


class CompletionBody(Sampled):
    """POST /v1/completions. Prompts are texts: token ids mean nothing without the tokenizer of one model."""

    prompt: Annotated[
        Annotated[str, Field(min_length=1), Tag("<one>")]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<many>")
        ],
        _one_or_many("a text or a list of texts"),
    ]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: Annotated[None, _not_offered("put the prompt before the answer yourself")] = None
    suffix: Annotated[None, _not_offered("answers follow their prompt")] = None


class EmbeddingsBody(Asking):
    """POST /v1/embeddings."""

    input: Annotated[
        Annotated[str, Field(min_length=1), Tag("<one>")]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS), Tag("<many>")
        ],
        _one_or_many("a text or a list of texts"),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
