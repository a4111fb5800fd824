"""The part of JSON Schema that docs/report.schema.json uses, as a validator that names the path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    "$schema", "$id", "$defs", "$ref", "title", "description", "type", "properties", "required",
    "additionalProperties", "items", "enum", "const", "minimum",
}  # fmt: skip


def is_type(value: Any, name: str) -> bool:
    # In JSON a boolean is no number.
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    """Every place where the value does not follow the schema, with what is wrong there."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    assert set(schema) <= KNOWN, f"the validator does not know {set(schema) - KNOWN}"
    types = schema.get("type", list(TYPES))
    types = [types] if isinstance(types, str) else types
    if not any(is_type(value, name) for name in types):
        yield f"{at}: {value!r} is not {' or '.join(types)}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is not one of {schema['enum']}"
    elif "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    elif "minimum" in schema and value < schema["minimum"]:
        yield f"{at}: {value!r} is below {schema['minimum']}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), root, f"{at}[{index}]")
    elif isinstance(value, dict):
        yield from object_violations(value, schema, root, at)


def object_violations(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str
) -> Iterator[str]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    yield from (
        f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value
    )
    for name, item in value.items():
        if name not in known and other is False:
            yield f"{at}: {name} is not allowed"
        else:
            rest = {} if other is True else other
            yield from violations(item, known.get(name, rest), root, f"{at}.{name}")
