"""Tests of reading JSON documents of a type."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pytest

from keras_ft.host.typed_json import parse_json, read_json


class _Part(TypedDict):
    share: float
    note: NotRequired[str | None]


class _Document(TypedDict):
    count: int
    parts: dict[str, _Part]
    names: list[str]


@dataclasses.dataclass
class _Record:
    state: str
    sizes: tuple[int, ...] = ()
    parts: Mapping[str, _Part] = dataclasses.field(default_factory=dict)
    interval: tuple[float, float] = (0.0, 1.0)


WHOLE = '{"count": 2, "parts": {"a": {"share": 1}}, "names": ["x"], "new": [1]}'


def test_a_document_of_the_type_is_returned_with_what_it_has_besides():
    assert parse_json(WHOLE, _Document) == {
        "count": 2,
        "parts": {"a": {"share": 1}},
        "names": ["x"],
        "new": [1],
    }
    assert parse_json('{"state": "new"}', _Record) == {"state": "new"}
    assert parse_json("[NaN]", Any)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"count": 2, ', "", "it must have count"),
        ("2", "2.5", "count must be an integer. Received: 2.5"),
        ("2", "1" + "0" * 400, "count must be an integer. Received: 1000"),
        ("2", "true", "count must be an integer. Received: True"),
        ('{"a": {"share": 1}}', "[]", r"parts must be an object. Received: \[\]"),
        ('{"share": 1}', "{}", "parts.a must have share"),
        ("1}", '"1"}', "parts.a.share must be a number. Received: '1'"),
        ("1}", "NaN}", "parts.a.share must be a number. Received: nan"),
        ("1}", f"1{'0' * 400}}}", "parts.a.share must be a number. Received: 10"),
        ("1}", '1, "note": 3}', "parts.a.note must be text. Received: 3"),
        ('["x"]', '"x"', "names must be a list. Received: 'x'"),
        ('["x"]', '["x", null]', r"names\[1\] must be text. Received: None"),
        (WHOLE, "[" * 100_000, "nested too deeply"),
        (WHOLE, WHOLE[:-1], "Expecting ',' delimiter"),
    ],
)
def test_another_type_is_named_with_its_place(old, new, message):
    with pytest.raises(ValueError, match=message):
        parse_json(WHOLE.replace(old, new, 1), _Document)


def test_the_fields_of_a_dataclass_are_checked():
    with pytest.raises(ValueError, match=r"sizes\[1\] must be an integer"):
        parse_json('{"sizes": [1, "2"]}', _Record)
    assert parse_json('{"interval": [0, 0.5]}', _Record)
    with pytest.raises(ValueError, match="interval must be a list of length 2"):
        parse_json('{"interval": [0.5]}', _Record)
    with pytest.raises(ValueError, match="parts.x must have share"):
        parse_json('{"parts": {"x": {}}}', _Record)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(OSError, match="it is no file"):
            read_json(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path):
    (tmp_path / "huge.json").touch()
    os.truncate(tmp_path / "huge.json", 2_000_000_000)
    with pytest.raises(OSError, match="its size is 2.0 GB"):
        read_json(tmp_path / "huge.json")
