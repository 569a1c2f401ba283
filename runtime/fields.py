"""Build a dataclass from parsed JSON or TOML. Every field is checked against its type first.

    @dataclass(frozen=True)
    class Manifest:
        size: int = field(metadata=check(at_least=1))  # pixels
        name: str = ""

    parse_fields(Manifest, {"size": "64"})  # FieldError: size: expected int, got '64'

The manifests of models and engines are read this way. `read_values`, `parse_json` and `parse_toml` give the values.
"""

import dataclasses
import json
import math
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


MAX_NESTING = 64
"""Values that are nested deeper are refused: code that walks through them would exceed Python's recursion limit."""


MAX_INTEGER = 2**63 - 1
"""Integers that are further from 0 are refused: arrays, and code outside Python, cannot hold them."""


class FieldError(ValueError):
    """A field that is missing, unknown, or not of its type. The message names the field, what it must be and is."""


MAX_FILE_BYTES = 16_000_000
"""Larger files of values are refused. A manifest has a few kilobytes."""


def read_values(path: Path) -> Any:
    """Return the values of a .toml file, or of a JSON file with any other suffix.

    Raises FieldError if the file is too large or is not valid, and OSError if it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe may never end
        raise FieldError("a folder, a pipe or a device (expected a file)")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise FieldError(f"too large, {size / 1e6:.0f} MB (expected at most {MAX_FILE_BYTES / 1e6:.0f})")
    try:
        text = path.read_text(encoding="utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError as error:
        raise FieldError("not a text file (expected UTF-8)") from error
    return parse_toml(text) if path.suffix == ".toml" else parse_json(text)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises FieldError if the text is damaged or nested too deeply.
    """
    return _parse(json.loads, text, "JSON")


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML text. Raises FieldError as `parse_json` does."""
    values: dict[str, Any] = _parse(tomllib.loads, text, "TOML")
    return values


def _parse(loads: Callable[[str], object], text: str, language: str) -> Any:
    try:
        value = loads(text)
    except json.JSONDecodeError as error:
        raise FieldError(f"not valid {language} (line {error.lineno}: {error.msg})") from error
    except ValueError as error:  # of TOML, or a number with thousands of digits
        raise FieldError(f"not valid {language} ({_shorten(str(error), str)})") from error
    except RecursionError as error:
        raise FieldError(f"not valid {language} (nested too deeply)") from error
    if _nesting(value) > MAX_NESTING:
        raise FieldError(f"not valid {language} (nested too deeply)")
    return value


def _nesting(value: object) -> int:
    """Return the number of dicts and lists around the innermost value."""
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        depth += 1
    return depth


def check(
    *, at_least: float | None = None, at_most: float | None = None, parse: Callable[[Any], object] | None = None
) -> dict[str, Any]:
    """Return the metadata of a dataclass field that has a check beyond its type.

    at_least, at_most: the smallest and the largest number allowed.
    parse: a function that turns the parsed JSON or TOML into the field's value; its ValueError becomes a FieldError.
    """
    return {"at_least": at_least, "at_most": at_most, "parse": parse}


def parse_fields(kind: type[T], values: object, prefix: str = "") -> T:
    """Return an instance of the dataclass `kind` with the fields of the mapping `values`.

    Lists become tuples, and mappings become dataclasses, where the annotation requires it. An int is accepted for a
    float, a bool is not accepted for a number, and a float must be finite. `prefix` precedes the names in messages.

    Raises FieldError.
    """
    if not isinstance(values, Mapping):
        where = prefix.removesuffix(".") + ": " if prefix else ""
        raise FieldError(f"{where}expected an object with named fields, got {_shorten(values)}")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, kind)) if field.init}
    for name in values:
        if name not in fields:
            raise FieldError(f"{prefix}{name}: unknown field (expected one of {', '.join(fields)})")
    hints = get_type_hints(kind)
    found = {}
    for name, field in fields.items():
        if name in values:
            found[name] = _parse_field(field, hints[name], values[name], prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(f"{prefix}{name}: missing (expected {_describe(hints[name])})")
    return kind(**found)


def _parse_field(field: dataclasses.Field, hint: Any, value: object, name: str) -> Any:
    parse, at_least, at_most = (field.metadata.get(key) for key in ("parse", "at_least", "at_most"))
    if parse is not None:
        try:
            return parse(value)
        except FieldError:
            raise
        except ValueError as wrong:
            raise FieldError(f"{name}: {wrong}") from wrong
    result = parse_value(hint, value, name)
    if at_least is not None and result is not None and result < at_least:
        raise FieldError(f"{name}: expected at least {at_least}, got {value!r}")
    if at_most is not None and result is not None and result > at_most:
        raise FieldError(f"{name}: expected at most {at_most}, got {value!r}")
    return result


def parse_value(hint: Any, value: object, name: str) -> Any:
    """Return `value` as the type `hint`. Raises FieldError with `name` if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(hint, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse_fields(hint, value, f"{name}.")
    if origin is tuple and isinstance(value, list | tuple):
        return _parse_tuple(hint, value, name)
    if list in (hint, origin) and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        return [parse_value(inner, item, f"{name}[{index}]") for index, item in enumerate(value)]
    if dict in (hint, origin) and isinstance(value, Mapping):
        inner = arguments[1] if arguments else Any
        return {key: parse_value(inner, item, f"{name}.{key}") for key, item in value.items()}
    if origin is Literal and any(value == one and type(value) is type(one) for one in arguments):
        return value
    if hint is float and is_number and _is_finite(cast(float, value)):
        return float(cast(float, value))
    if hint is int and is_number and isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise FieldError(f"{name}: expected an int of at most 64 bits, got {_shorten(value)}")
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise FieldError(f"{name}: expected {_describe(hint)}, got {_shorten(value)}")


def _parse_union(hint: Any, value: object, name: str) -> Any:
    members = [one for one in get_args(hint) if one is not type(None)]
    if value is None and len(members) < len(get_args(hint)):
        return None
    if len(members) == 1:  # T | None: the message for T is more precise
        return parse_value(members[0], value, name)
    for one in members:
        try:
            return parse_value(one, value, name)
        except FieldError:
            continue
    raise FieldError(f"{name}: expected {_describe(hint)}, got {_shorten(value)}")


def _parse_tuple(hint: Any, value: list | tuple, name: str) -> tuple:
    arguments = get_args(hint)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise FieldError(f"{name}: expected {_describe(hint)}, got {_shorten(value)}")
    return tuple(
        parse_value(one, item, f"{name}[{index}]")
        for index, (one, item) in enumerate(zip(arguments, value, strict=True))
    )


def _describe(hint: Any) -> str:
    """Return a type as a reader of JSON would name it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(one) for one in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(one) for one in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list of {_describe(arguments[0])}"
        return f"a list of {len(arguments)} ({', '.join(_describe(one) for one in arguments)})"
    if hint is type(None):
        return "null"
    if hint is float:
        return "a finite number"
    if dataclasses.is_dataclass(hint) or origin is dict or hint is dict:
        return "an object with named fields"
    return str(getattr(hint, "__name__", hint))


def _is_finite(number: float) -> bool:
    """Whether an int or float is a finite float. An int may be too large for a float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _shorten(value: object, show: Callable[[object], str] = repr) -> str:
    text = show(value)
    return text if len(text) <= 60 else text[:57] + "..."
