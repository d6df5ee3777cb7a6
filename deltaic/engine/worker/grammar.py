"""The language that an answer must be in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grammar:
    """GBNF text with a rule `root`. With triggers it holds only from where one of them appears in the answer."""

    text: str
    trigger_patterns: tuple[str, ...] = ()
    trigger_tokens: tuple[int, ...] = ()

    @property
    def lazy(self) -> bool:
        return bool(self.trigger_patterns or self.trigger_tokens)
