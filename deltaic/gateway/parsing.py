"""Bytes of a body to its model, or to one error that names the field and quotes no input."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError

from deltaic.gateway.bodies import Body
from deltaic.gateway.errors import BadBody

B = TypeVar("B", bound=Body)
_LONGEST_PARAM = 200


def parse(kind: type[B], body: bytes) -> B:
    """Raises BadBody."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> BadBody:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return BadBody(f"the body is not JSON: {first['ctx']['error']}", hint="send one JSON object in UTF-8")
    param = _param(first["loc"])
    # Our own words stand in the context; before them, pydantic would put its own.
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    said = said[:1].lower() + said[1:]
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return BadBody(f"{param or 'the body'}: {said}{more}", **({"param": param} if param else {}))


def _param(place: Sequence[int | str]) -> str:
    """messages[0].role, as clients write it; the tags of our unions are nobody's business."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not step.startswith("<") and step != "[key]":
            text += f".{step}" if text else step
    return text[:_LONGEST_PARAM]
