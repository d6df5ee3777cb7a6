"""The language that an answer must be in, followed token by token with llguidance.

llama.cpp's own grammars are not used: the 34 characters `root ::= " " root "b" | " " root "c" | "x"` make its parser
take 2^n steps for n spaces, nesting overflows its stack, and a token that it did not expect aborts the process.
llguidance parses in polynomial time, under limits, and finds the allowed tokens some hundred times faster.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from deltaic.engine.errors import GrammarInvalid, SchemaInvalid
from deltaic.engine.worker import gbnf

if TYPE_CHECKING:
    from deltaic.engine.worker.model import Model

_E = TypeVar("_E", GrammarInvalid, SchemaInvalid)

MAX_SCHEMA_CHARACTERS = 64 << 10
MAX_SCHEMA_DEPTH = 64
MAX_REFERENCED_DEPTH = 512
"""Levels of all that references lead to, together. llguidance follows them recursively: about 1,500 end its stack."""
JSON_OBJECT = '{"type": "object"}'
JSON_OPTIONS: dict[str, Any] = {"whitespace_pattern": r"[ \n\t]{0,12}", "coerce_one_of": True}
"""Of JSON in answers: without a bound on its white space, small models write nothing else; `oneOf` is as `anyOf`."""

_LIMITS = {
    "max_items_in_row": 2000,
    "step_max_items": 50_000,
    "step_lexer_fuel": 200_000,
    "initial_lexer_fuel": 1_000_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
}
"""Some 15 ms of lexing for one token and 40 MB of states, by llguidance's own figures; what needs more is refused."""


class Matcher:
    """Where one answer is in its language. Touched by one thread."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; one that ends the answer only where the language lets it end."""
        if self._matcher.is_stopped():
            # Only the end may come, which validate_tokens does not know by then.
            return token in self.allowed()
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> NDArray[np.intp]:
        """All tokens that may come next, ascending. Raises GrammarInvalid when there is none, or it costs too much."""
        mask = self._matcher.compute_bitmask()
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=self._vocabulary_size, bitorder="little")
        tokens = np.flatnonzero(bits)
        if self._matcher.is_error() or not tokens.size:
            raise _invalid(GrammarInvalid, "grammar", self._matcher.get_error() or "nothing may follow")
        return tokens

    def accept(self, token: int) -> None:
        """Go on after `token`. Raises GrammarInvalid when it is not allowed."""
        if not self._matcher.consume_token(token):
            raise _invalid(GrammarInvalid, "grammar", self._matcher.get_error())


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled language, of which every answer gets its own `matcher`. `text` is what it was made from."""

    text: str
    vocabulary_size: int
    compiled: LLMatcher = field(repr=False, compare=False)

    def matcher(self) -> Matcher:
        return Matcher(self.compiled.deep_copy(), self.vocabulary_size)


class GrammarCompiler:
    """Makes grammars for one model. Any thread may call it; compiling takes milliseconds, without the GIL."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._tokens: LLTokenizer | None = None
        self._once = threading.Lock()

    def from_gbnf(self, text: str) -> Grammar:
        """Raises GrammarInvalid."""
        return self.from_lark(gbnf.to_lark(text))

    def from_json_schema(self, text: str) -> Grammar:
        """JSON values that the schema allows. Raises SchemaInvalid; nothing is ever fetched."""
        schema = check_schema(text)
        try:
            compiled = LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
        except ValueError as error:
            raise _invalid(SchemaInvalid, "json_schema", str(error)) from None
        return self._compile(compiled, text, SchemaInvalid, "json_schema")

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.from_json_schema(JSON_OBJECT)

    def from_lark(self, text: str) -> Grammar:
        """Raises GrammarInvalid. The notation: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md."""
        return self._compile(LLMatcher.grammar_from_lark(text), text, GrammarInvalid, "grammar")

    def _compile(self, grammar: str, text: str, error: type[_E], name: str) -> Grammar:
        limits = LLParserLimits(**_LIMITS)  # type: ignore[arg-type]
        compiled = LLMatcher(self._tokenizer(), grammar, log_level=0, limits=limits)
        if compiled.is_error():
            raise _invalid(error, name, compiled.get_error())
        made = Grammar(text, self._model.vocabulary_size, compiled)
        try:
            made.matcher().allowed()
        except GrammarInvalid as nothing:
            raise error(nothing.message, hint=nothing.hint, field=name) from None
        return made

    def _tokenizer(self) -> LLTokenizer:
        """Made at the first use: it takes a quarter of a second for 50,000 tokens, and most workers need none."""
        with self._once:
            if self._tokens is None:
                model = self._model
                ends = [token for token in range(model.vocabulary_size) if model.ends(token)]
                self._tokens = LLTokenizer(TokenizerWrapper(_Vocabulary(model)), eos_token=ends or None)
            return self._tokens


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self.eos_token_id = model.eos
        self.bos_token_id = None
        self.tokens = [model.piece(token, special=True) for token in range(model.vocabulary_size)]
        self.special_token_ids = [token for token in range(model.vocabulary_size) if model.special(token)]

    def __call__(self, text: bytes) -> list[int]:
        return list(self._model.tokenize(text.decode("utf-8", "replace")))


def check_schema(text: str) -> str:
    """The schema again, if it is a JSON object of bounded size. Raises SchemaInvalid."""
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise _invalid(SchemaInvalid, "json_schema", f"it has more than {MAX_SCHEMA_CHARACTERS} characters")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(SchemaInvalid, "json_schema", f"it is not JSON: {error}") from None
    if schema is True:
        return "{}"
    if not isinstance(schema, dict):
        raise _invalid(SchemaInvalid, "json_schema", "it is not an object")
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise _invalid(SchemaInvalid, "json_schema", f"it is nested deeper than {MAX_SCHEMA_DEPTH}")
    if _depth(schema) + sum(_depth(_target(schema, to)) + 1 for to in _references(schema)) > MAX_REFERENCED_DEPTH:
        raise _invalid(
            SchemaInvalid, "json_schema", f"its references lead more than {MAX_REFERENCED_DEPTH} levels deep"
        )
    # Options for llguidance may not come from callers.
    return json.dumps({key: value for key, value in schema.items() if key != "x-guidance"})


def _levels(value: object) -> Iterator[list[object]]:
    """The values of a JSON text, level by level."""
    level = [value]
    while level:
        yield level
        containers = (part for part in level if isinstance(part, (dict, list)))
        level = [each for part in containers for each in (part.values() if isinstance(part, dict) else part)]


def _depth(value: object) -> int:
    """How deep JSON is nested."""
    return sum(1 for _ in _levels(value)) - 1


def _references(schema: object) -> set[str]:
    return {
        part["$ref"]
        for level in _levels(schema)
        for part in level
        if isinstance(part, dict) and isinstance(part.get("$ref"), str)
    }


def _target(schema: object, reference: str) -> object:
    """What a reference leads to, by JSON pointer; the whole schema where it is none."""
    part = schema
    for step in unquote(reference).removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(part, dict) or name not in part:
            return schema
        part = part[name]
    return part


def _invalid(error: type[_E], name: str, why: str) -> _E:
    reason = why.strip().split("\n", 1)[0][:300] or "no reason given"
    return error(
        f"the {name.replace('_', ' ')} cannot be followed: {reason}", hint="correct or simplify it", field=name
    )
