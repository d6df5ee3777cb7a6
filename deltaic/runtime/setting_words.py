"""What settings say to people and hear from them: lists of words, defaults in the help, what is wrong in one line."""

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ByteSize, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

_DEFAULT = re.compile(r" ?\(default(?: factory)?: .*\)$", re.DOTALL)

# Kubernetes tells every pod about a service called deltaic-edge in variables that begin like ours.
_OF_KUBERNETES = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


def _split(value: object) -> object:
    """Words of "a, b", of the JSON '["a", "b"]', or of a list whose items may be such texts."""
    if isinstance(value, str):
        return _split_text(value)
    if isinstance(value, list):
        return [word for item in value for word in (_split_text(item) if isinstance(item, str) else [item])]
    return value


def _split_text(text: str) -> list[object]:
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except json.JSONDecodeError:
            raise ValueError("write words with commas between them, or a JSON array") from None
    return [word.strip() for word in text.split(",") if word.strip()]


Words = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""A list in a setting: comma-separated everywhere, and repeated as a flag, JSON in a variable, an array in TOML."""


def what_is_wrong(error: ValidationError) -> str:
    """The first complaint in one line: which setting, and what it should be."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    kind, text = first["type"], first["msg"]
    if kind == "value_error":
        text = str(first["ctx"]["error"])
    elif kind in ("byte_size", "byte_size_unit"):
        text = "write a number of bytes, like 4GiB"
    elif kind == "extra_forbidden":
        text = "there is no such setting"
    return " ".join(f"{where}: {text}".split())


def unknown_variable(names: Iterable[str], prefix: str, fields: Mapping[str, FieldInfo]) -> str | None:
    """What is wrong with the first variable that has our prefix and no meaning; parts of a nested part are not judged.

    `PREFIX_CONFIG` is known: it names the settings file.
    """
    known = {"CONFIG", *(name.upper() for name in fields)}
    nested = {name.upper() for name, field in fields.items() if _is_part(field)}
    for name in sorted(names):
        if not name.upper().startswith(prefix):
            continue
        rest = name.upper().removeprefix(prefix)
        if rest in known or rest.partition("__")[0] in nested or _OF_KUBERNETES.fullmatch(rest):
            continue
        every = known | {f"{part}__{name.upper()}" for part in nested for name in _names_within(fields[part.lower()])}
        close = difflib.get_close_matches(rest, sorted(every), n=1)
        meant = f" (is {prefix}{close[0]} meant?)" if close else ""
        return f"the variable {name} is no setting{meant}"
    return None


def _is_part(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _names_within(field: FieldInfo) -> Iterable[str]:
    kind = field.annotation
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else ()


class SettingsHelp(argparse.RawDescriptionHelpFormatter):
    """Shows defaults as a person would write them and keeps the lines of the epilog."""

    def __init__(self, prog: str, *, model: type[BaseModel]) -> None:
        super().__init__(prog)
        self._model = model

    def _get_help_string(self, action: argparse.Action) -> str:
        told = _DEFAULT.sub("", action.help or "")
        field = _find(self._model, action.dest)
        shown = _written(field.get_default(call_default_factory=True)) if field else ""
        return told + f" (default: {shown})".replace("%", "%%") if shown else told


def _find(model: type[BaseModel], dest: str) -> FieldInfo | None:
    name, _, rest = dest.partition(".")
    field = model.model_fields.get(name)
    if not rest or field is None:
        return field
    kind = field.annotation
    return _find(kind, rest) if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _written(value: object) -> str:
    """A default in the words of a flag; nothing for one that is empty, whose description says what that means."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    return "" if value is None else str(value)
