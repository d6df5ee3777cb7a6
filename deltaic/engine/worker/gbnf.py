"""GBNF, the grammar notation of llama.cpp, read and written again in the notation of llguidance.

Syntax: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md. Every character becomes a terminal of its
own, so that no longest match of a lexer can change the language. Left recursion, which llama.cpp refuses, is fine here.
"""

import re
from dataclasses import dataclass, field

from deltaic.engine.errors import GrammarInvalid

MAX_CHARACTERS = 64 << 10
MAX_RULES = 512
"""Rules and groups. llguidance walks them recursively: from about 1,500 on, its stack overflows."""
MAX_SYMBOLS = 16_384
MAX_DEPTH = 64
MAX_REPETITIONS = 2000
"""As llama.cpp has it."""

_NAME = re.compile(r"[a-zA-Z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_REPETITION = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(,[ \t]*(\d{1,9})?)?[ \t]*\}")
_TOKEN = re.compile(r"(!?)<\[(\d{1,9})\]>")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_TIMES = {"*": "*", "+": "+", "?": "?"}


def to_lark(text: str) -> str:
    """The same language for llguidance. Raises GrammarInvalid, with the line where it stops making sense."""
    if len(text) > MAX_CHARACTERS:
        raise GrammarInvalid(
            f"the grammar has {len(text)} characters", hint=f"send at most {MAX_CHARACTERS}", field="grammar"
        )
    return _Reader(text).read()


@dataclass(slots=True)
class _Reader:
    text: str
    at: int = 0
    symbols: int = 0
    rules: dict[str, str] = field(default_factory=dict)
    """Lark names to their definitions."""
    names: dict[str, str] = field(default_factory=lambda: {"root": "start"})
    """GBNF names to Lark names, in the order of their first mention."""
    terminals: dict[str, str] = field(default_factory=dict)
    """Regular expressions to the names of their terminals."""

    def read(self) -> str:
        self._skip(_SPACE_AND_LINES)
        while self.at < len(self.text):
            self._rule()
        missing = [name for name, lark in self.names.items() if lark not in self.rules]
        if missing:
            raise self._wrong(f"rule {missing[0]!r} is not defined")
        lines = [f"{name}: {definition}" for name, definition in self.rules.items()]
        lines += [f"{name}: /{expression}/" for expression, name in self.terminals.items()]
        return "\n".join(lines) + "\n"

    def _rule(self) -> None:
        name = self._lark_name(self._name())
        self._skip(_SPACE)
        if not self.text.startswith("::=", self.at):
            raise self._wrong("expected ::=")
        self.at += 3
        self._skip(_SPACE_AND_LINES)
        self._define(name, self._alternatives(0))
        if self.at < len(self.text) and self.text[self.at] not in "\r\n":
            raise self._wrong("expected the end of the rule")
        self._skip(_SPACE_AND_LINES)

    def _define(self, name: str, definition: str) -> None:
        if name in self.rules:
            raise self._wrong("a rule is defined twice")
        self.rules[name] = definition
        if len(self.rules) > MAX_RULES:
            raise self._wrong(f"more than {MAX_RULES} rules and groups")

    def _alternatives(self, depth: int) -> str:
        """What stands between here and the end of the rule or group, as a Lark definition."""
        if depth > MAX_DEPTH:
            raise self._wrong(f"groups nested deeper than {MAX_DEPTH}")
        alternatives = [self._sequence(depth)]
        while self._peek() == "|":
            self.at += 1
            self._skip(_SPACE_AND_LINES)
            alternatives.append(self._sequence(depth))
        return " | ".join(alternatives)

    def _sequence(self, depth: int) -> str:
        parts: list[str] = []
        while (element := self._element(depth)) is not None:
            self._between(depth)
            parts += self._repeated(element, depth)
            self.symbols += len(element) + 1
            if self.symbols > MAX_SYMBOLS:
                raise self._wrong(f"more than {MAX_SYMBOLS} symbols")
        return " ".join(parts) or '""'

    def _element(self, depth: int) -> list[str] | None:
        """The symbols of one element; None at the end of a sequence."""
        match self._peek():
            case '"':
                return self._literal()
            case "(":
                return [self._group(depth)]
            case "[" | "." | "<" | "!" as first:
                return [{"[": self._class, ".": self._any, "<": self._token, "!": self._token}[first]()]
            case character if _NAME.match(character):
                return [self._lark_name(self._name())]
        return None

    def _repeated(self, element: list[str], depth: int) -> list[str]:
        """The element with its repetitions; of a literal they repeat the whole."""
        while (suffix := self._suffix()) is not None:
            whole = element[0] if len(element) == 1 and element[0][-1] not in "*+?}" else self._named(" ".join(element))
            element = [whole + suffix] if suffix != "{0,0}" else ['""']
            self._between(depth)
        return element

    def _suffix(self) -> str | None:
        character = self._peek()
        if character in _TIMES and character:
            self.at += 1
            return _TIMES[character]
        if character != "{":
            return None
        match = _REPETITION.match(self.text, self.at)
        if not match:
            raise self._wrong("expected {m}, {m,} or {m,n}")
        least, most = int(match[1]), int(match[3] or match[1])
        if max(least, most) > MAX_REPETITIONS or most < least:
            raise self._wrong(f"repetitions go from 0 to {MAX_REPETITIONS}, the smaller number first")
        self.at = match.end()
        return f"{{{least},{'' if match[2] and not match[3] else most}}}"

    def _group(self, depth: int) -> str:
        self.at += 1
        self._skip(_SPACE_AND_LINES)
        definition = self._alternatives(depth + 1)
        if self._peek() != ")":
            raise self._wrong("expected )")
        self.at += 1
        return self._named(definition)

    def _named(self, definition: str) -> str:
        name = f"g{len(self.rules)}"
        self._define(name, definition)
        return name

    def _literal(self) -> list[str]:
        self.at += 1
        symbols = []
        while self._peek() != '"':
            symbols.append(self._terminal(_hex(self._character())))
        self.at += 1
        return symbols or ['""']

    def _any(self) -> str:
        self.at += 1
        return self._terminal("(?s:.)")

    def _class(self) -> str:
        self.at += 1
        negated = self._peek() == "^"
        self.at += negated
        ranges = ""
        while self._peek() != "]":
            first = last = self._character()
            if self._peek() == "-" and not self.text.startswith("-]", self.at):
                self.at += 1
                last = self._character()
            if last < first:
                raise self._wrong("a range of characters runs backwards")
            ranges += f"{_hex(first)}-{_hex(last)}"
        self.at += 1
        if not ranges:
            raise self._wrong("a class without characters")
        return self._terminal(f"[{'^' if negated else ''}{ranges}]")

    def _character(self) -> int:
        """The code point at the reader, which may be written as an escape."""
        character = self._peek()
        if not character:
            raise self._wrong("unexpected end")
        self.at += 1
        if character != "\\":
            return ord(character)
        escape = self._peek()
        self.at += 1
        if escape in _ESCAPES and escape:
            return ord(_ESCAPES[escape])
        digits = self.text[self.at : self.at + _HEX.get(escape, 0)]
        if escape not in _HEX or not re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[escape]}}}", digits):
            raise self._wrong("no such escape")
        self.at += len(digits)
        point = int(digits, 16)
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            raise self._wrong("an escape that is no character")
        return point

    def _token(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        if not match:
            raise self._wrong("tokens are written <[number]>")
        self.at = match.end()
        return f"<[{'^' if match[1] else ''}{int(match[2])}]>"

    def _terminal(self, expression: str) -> str:
        return self.terminals.setdefault(expression, f"T{len(self.terminals)}")

    def _lark_name(self, name: str) -> str:
        return self.names.setdefault(name, f"r{len(self.names)}")

    def _name(self) -> str:
        match = _NAME.match(self.text, self.at)
        if not match:
            raise self._wrong("expected the name of a rule")
        self.at = match.end()
        return match[0]

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _between(self, depth: int) -> None:
        """Space between elements: lines end a rule, unless a group is open."""
        self._skip(_SPACE_AND_LINES if depth else _SPACE)

    def _skip(self, space: "re.Pattern[str]") -> None:
        match = space.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _wrong(self, why: str) -> GrammarInvalid:
        line = self.text.count("\n", 0, self.at) + 1
        return GrammarInvalid(
            f"the grammar is not GBNF: line {line}: {why}", hint="correct the grammar", field="grammar", line=str(line)
        )


def _hex(point: int) -> str:
    return rf"\x{{{point:x}}}"
