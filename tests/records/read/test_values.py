"""Values out of strangers' files, taken in one way only, and files that are written whole."""
import os

import pytest

from records.tools.read.values import DEPTH, ReadError, parse_json, write_whole


@pytest.mark.parametrize("text, words", [
    ('{"a":1,"a":2}', "a key given twice"), ('{"a":{"b":1,"b":1}}', "a key given twice"),
    ('{"a":NaN}', "NaN"), ('{"a":-Infinity}', "Infinity"),
    ('{"a":' + "[" * DEPTH + "]" * DEPTH + "}", "nested deeper"),
    ('{"a":' + "[" * 900 + "]" * 900 + "}", "nested deeper"), ("[" * 100_000, "not JSON"), ("[]", "list"),
    ('{"a":' + "9" * 5000 + "}", "not JSON"), ("", "not JSON"), ('{"a":1}{}', "not JSON"),
])
def test_json_that_two_readers_might_take_in_two_ways_is_refused(text, words):
    with pytest.raises(ReadError, match=words):
        parse_json(text)


def test_json_as_deep_as_ours_is_read():
    text = '{"a":' * (DEPTH - 1) + "1" + "}" * (DEPTH - 1)
    assert parse_json(text) and parse_json('{"a":"NaN","b":"inf"}') == {"a": "NaN", "b": "inf"}


def test_a_write_that_is_cut_short_leaves_the_file_before_it(tmp_path, monkeypatch):
    write_whole(tmp_path / "new" / "a.json", "one")
    write_whole(tmp_path / "new" / "a.json", b"two")
    assert [path.read_text() for path in (tmp_path / "new").iterdir()] == ["two"]

    def killed(*paths):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "new" / "a.json", "three")
    assert (tmp_path / "new" / "a.json").read_text() == "two"
