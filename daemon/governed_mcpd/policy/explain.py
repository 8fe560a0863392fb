"""pydantic's complaints, said for the people who write policy: field, place, found, expected, remedy."""

import difflib
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from governed_mcpd.policy.problem import Problem, printable, shown
from governed_mcpd.policy.text import Place

_EXPECTED = {
    "missing": "this field",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def field_problem(file: str, model: type[BaseModel], place: Place, detail: Any) -> Problem:
    """One entry of ValidationError.errors() as a Problem. `place` is the document's."""
    location: Sequence[str | int] = [part for part in detail["loc"] if part != "[key]"]
    kind: str = detail["type"]
    at = _place(place, location, of_key=kind == "extra_forbidden" or "[key]" in detail["loc"])
    found, expected, remedy = shown(detail.get("input")), _expected(detail), "correct the value"
    if kind == "missing":
        found, remedy = "nothing", f"add {location[-1]}: …"
    elif kind == "extra_forbidden":
        fields = _fields(model, location[:-1])
        found = f"the unknown field {printable(str(location[-1]))!r}"
        expected = f"one of {', '.join(fields)}" if fields else "no such field"
        near = difflib.get_close_matches(str(location[-1]), fields, 1)
        remedy = f"did you mean {near[0]}?" if near else "remove it"
    return Problem(file, at.line, at.column, ".".join(map(str, location)), found, expected, remedy)


def _expected(detail: Any) -> str:
    known = _EXPECTED.get(detail["type"])
    if known is not None:
        return known
    message = str(detail["msg"])
    for prefix in ("Value error, ", "Input should be "):
        message = message.removeprefix(prefix)
    return printable(message.removeprefix("expected "), 400)


def _place(place: Place, location: Sequence[str | int], *, of_key: bool) -> Place:
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        if last and of_key and part in place.keys:
            return place.keys[str(part)]
        if part not in place.members:
            return place
        place = place.members[part]
    return place


def _fields(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The field names of the mapping at `location`, found through the annotations."""
    current: Any = model
    for part in location:
        current = _inside(current, part)
    current = _plain(current)
    return list(current.model_fields) if _is_model(current) else []


def _inside(annotation: Any, part: str | int) -> Any:
    annotation = _plain(annotation)
    if _is_model(annotation):
        found = annotation.model_fields.get(str(part))
        return found.annotation if found is not None else None
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _plain(annotation: Any) -> Any:
    """Without Annotated, and `X | None` as X."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, types.UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        return _plain(choices[0]) if len(choices) == 1 else None
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
