"""How a model writes calls of tools, and how they are found in its text."""

from enum import Enum


class ToolFormat(Enum):
    """The notation of one family of models."""

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"
