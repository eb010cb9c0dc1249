"""data/bpe.py and ids.py: what needs no package gives tiktoken's ids."""
import io
import random
import sys

import numpy as np
import pytest

from data import bpe, ids
from harness.runlog import ROOT
from harness.shards import read_shard
from harness.vocabulary import token_bytes

SAMPLE = ROOT / "data" / "sample" / "vocab.bpe"


@pytest.mark.parametrize("vocabulary", [SAMPLE, ROOT / "data" / "gpt2" / "vocab.bpe"], ids=["sample", "gpt2"])
def test_any_text_has_the_same_ids_with_and_without_tiktoken(vocabulary):
    """Letters, digits and spaces of all scripts; control characters that Python alone takes for spaces."""
    plain, tiktoken = bpe.encoder(vocabulary), bpe.encoding(vocabulary).encode_ordinary
    draw = random.Random(1)
    letters = [*"ab1 \n\t'sél²½Ⅷ中٣\u00a0\u2003\x1c\x85\u0301.,!😀 \r", "'ll", "  ", "<|endoftext|>", "Whale"]
    for _ in range(3000):
        text = "".join(draw.choices([*letters, chr(draw.randrange(0xD800))], k=draw.randrange(12)))
        assert plain(text) == tiktoken(text), repr(text)
    text = (ROOT / "README.md").read_text()
    assert plain(text) == tiktoken(text)


def test_a_text_becomes_a_shard_that_begins_with_an_end_of_text(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Call me Ishmael.".encode() + b"\xff")))
    ids.main(str(SAMPLE), str(tmp_path / "x.bin"))
    expected = [4095, *bpe.encoding(SAMPLE).encode_ordinary("Call me Ishmael.\ufffd")]
    np.testing.assert_array_equal(read_shard(tmp_path / "x.bin"), expected)


def test_a_piece_of_any_length_takes_its_time_once():
    """Each merge looked at every pair: 4,000 letters took 4 s, these would take minutes."""
    plain, draw = bpe.encoder(SAMPLE), random.Random(2)
    text = "=" * 100_000 + "".join(draw.choices("etaoinshrdlu", k=100_000))
    table = token_bytes(SAMPLE)
    assert b"".join(table[i] for i in plain(text)).decode() == text
    text = text[97_000:103_000]
    assert plain(text) == bpe.encoding(SAMPLE).encode_ordinary(text)
