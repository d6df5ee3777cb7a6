"""How a model writes calls of tools, and how they are found in its text."""

from enum import Enum


class ToolFormat(Enum):
    """The notation of one family of models."""

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"


class ToolStream:
    def __init__(self, form: ToolFormat) -> None:
        self.form = form

    def push(self, text: str) -> list[object]:
        return [text]

    def finish(self) -> list[object]:
        return []
