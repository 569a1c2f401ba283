"""Dataclasses are built from parsed JSON only if every field fits its type."""

import datetime
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from canthus.runtime.fields import MAX_NESTING, FieldError, check, parse_fields, parse_json, parse_toml, read_values


@dataclass(frozen=True)
class Part:
    name: str
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Whole:
    size: int = field(metadata=check(at_least=1, at_most=100))
    rate: float = 1.0
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (1.0, 0.0)
    part: Part | None = None
    weights: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    upper: str = field(default="", metadata=check(parse=lambda value: value.upper()))


def test_values_of_the_right_types_are_taken_over():
    given = {"size": 3, "rate": 2, "kind": "b", "pair": [1, 2.5], "part": {"name": "p", "steps": [1, 2]}}
    given |= {"weights": {"x": 1}, "extra": {"y": [None]}, "upper": "abc"}
    whole = parse_fields(Whole, given)
    assert whole == Whole(3, 2.0, "b", (1.0, 2.5), Part("p", (1, 2)), {"x": 1.0}, {"y": [None]}, "ABC")
    assert type(whole.rate) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "64"}, r"^size: expected int, got '64'$"),
        ({"size": 64.0}, r"^size: expected int, got 64\.0$"),
        ({"size": True}, r"^size: expected int, got True$"),
        ({"size": -1}, r"^size: expected at least 1, got -1$"),
        ({"size": 101}, r"^size: expected at most 100, got 101$"),
        ({"size": 2**63}, r"^size: expected an int of at most 64 bits, got 9223372036854775808$"),
        ({"rate": float("nan")}, r"^rate: expected a finite number, got nan$"),
        ({"rate": 10**400}, r"^rate: expected a finite number, got 10{56}\.\.\.$"),
        ({"rate": datetime.date(2026, 1, 1)}, r"^rate: expected a finite number, got datetime\.date"),
        ({"kind": "c"}, r"^kind: expected one of 'a', 'b', got 'c'$"),
        ({"pair": [1]}, r"^pair: expected a list of 2 .*, got \[1\]$"),
        ({"pair": [1, "2"]}, r"^pair\[1\]: expected a finite number, got '2'$"),
        ({"part": {}}, r"^part\.name: missing \(expected str\)$"),
        ({"part": 1}, r"^part: expected an object with named fields, got 1$"),
        ({"weights": {"x": "1"}}, r"^weights\.x: expected a finite number, got '1'$"),
        ({"sizes": 1}, r"^sizes: unknown field \(expected one of size, rate, kind"),
        ({"extra": "x" * 100}, r"^extra: expected an object with named fields, got 'x{56}\.\.\.$"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_what_it_must_be(changes, message):
    with pytest.raises(FieldError, match=message):
        parse_fields(Whole, {"size": 3} | changes)


def test_missing_fields_and_values_without_fields_are_refused():
    with pytest.raises(FieldError, match=r"^size: missing \(expected int\)$"):
        parse_fields(Whole, {})
    with pytest.raises(FieldError, match=r"^expected an object with named fields, got \[\]$"):
        parse_fields(Whole, [])


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(("parse", "prefix"), [(parse_json, ""), (parse_toml, "a = ")])
def test_text_that_is_nested_too_deeply_is_refused_whatever_the_depth(parse, prefix):
    assert parse(prefix + nested(MAX_NESTING - 1))
    for depth in (MAX_NESTING + 1, 500, 100_000):
        with pytest.raises(FieldError, match=r"^not valid (JSON|TOML) \(nested too deeply\)$"):
            parse(prefix + nested(depth))


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_json, '{"a": 1,\n"b": }', r"^not valid JSON \(line 2: Expecting value\)$"),
        (parse_json, "9" * 5000, r"^not valid JSON \(Exceeds the limit .*\)$"),
        (parse_toml, "a = 1\nb = ?", r"^not valid TOML \(Invalid value \(at line 2, column 5\)\)$"),
    ],
)
def test_damaged_text_is_refused_with_the_reason(parse, text, message):
    with pytest.raises(FieldError, match=message):
        parse(text)


def test_values_are_read_from_a_file_by_its_suffix(tmp_path):
    (tmp_path / "a.json").write_text('{"size": 3}')
    (tmp_path / "a.toml").write_text("size = 3")
    assert read_values(tmp_path / "a.json") == read_values(tmp_path / "a.toml") == {"size": 3}


def test_folder_pipe_and_device_are_not_read(tmp_path):
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(FieldError, match="a folder, a pipe or a device"):
            read_values(path)


def test_file_that_is_too_large_or_no_text_is_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FieldError, match=r"^not a text file \(expected UTF-8\)$"):
        read_values(tmp_path / "binary.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(FieldError, match=r"^too large, 1000000 MB \(expected at most 16\)$"):
        read_values(tmp_path / "huge.json")
