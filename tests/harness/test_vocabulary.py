"""harness/vocabulary.py: ids to bytes, checked against tiktoken and the published hash of GPT-2's ranks."""
import base64
import hashlib

import pytest
from tiny import ROOT

from data.bpe import encoding
from harness.vocabulary import BYTE_ORDER, END_OF_TEXT, decode, token_bytes

VOCABS = [ROOT / "data" / "gpt2" / "vocab.bpe", ROOT / "data" / "sample" / "vocab.bpe"]
TEXTS = ["", "hello world", "  two  spaces\n\n\ttabs\r\n", "It's we'll they'd 1234567 ?!...",
         "naïve café — “quoted”",
         "東京 Ελληνικά हिन्दी 🙂👩‍👩‍👧 \u0000\u007f\u0085\u00a0\u00ad\u2028", "<|endoftext|>",
         "".join(map(chr, range(0x250)))]


def test_ranks_of_gpt2_have_the_sha256_that_tiktoken_pins_for_r50k_base():
    ranks = token_bytes(VOCABS[0])[:-1]
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks))
    assert hashlib.sha256(lines).hexdigest() == \
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    assert encoding(VOCABS[0]).encode_ordinary("hello world") == [31373, 995]


@pytest.mark.parametrize("vocab", VOCABS, ids=["gpt2", "sample"])
def test_text_survives_encode_and_decode(vocab):
    table, codec = token_bytes(vocab), encoding(vocab)
    assert [decode(codec.encode_ordinary(text), table) for text in TEXTS] == TEXTS


@pytest.mark.parametrize("vocab", VOCABS, ids=["gpt2", "sample"])
def test_decode_equals_tiktoken_for_every_id_and_broken_utf8_and_the_end_of_text_is_last_and_no_text(vocab):
    table, codec = token_bytes(vocab), encoding(vocab)
    assert [codec.decode_single_token_bytes(i) for i in range(codec.n_vocab)] == table
    ids = [*range(256), codec.eot_token, *codec.encode_ordinary("🙂")[:-1]]
    assert decode(ids, table) == codec.decode(ids)
    assert sorted(table[:256]) == [bytes([b]) for b in range(256)] and len(set(BYTE_ORDER)) == 256
    assert len(set(table)) == len(table)
    assert table[-1] == END_OF_TEXT
    assert codec.eot_token == len(table) - 1


@pytest.mark.parametrize("content, said", [
    ("", "line 1"), ("Ġ t\n", "line 1"), ("#version: 0.2\nĠ t\n\nh e\n", "line 3"),
    ("#version: 0.2\nĠt\n", "line 2"), ("#version: 0.2\nĠ t h\n", "line 2"),
    ("#version: 0.2\nĠ 東\n", "line 2"), ("#version: 0.2\nth e\n", "line 2"),
    ("#version: 0.2\nt h\nt h\n", "line 3"),
    ("#version: 0.2\na b\nb c\nab c\na bc\n", "line 5 is 'a bc', expected two tokens that"),
    (b"#version: 0.2\n\xff \xfe\n", "line 2")])
def test_a_malformed_file_is_one_clear_error(tmp_path, content, said):
    path = tmp_path / "vocab.bpe"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said) as error:
        token_bytes(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_another_vocabulary_is_told_by_its_size():
    """It was found at the first text sample, or never: every id of another one's shards may be below it."""
    assert len(token_bytes(VOCABS[1], 4096)) == 4096
    with pytest.raises(ValueError, match="vocab.bpe: 4096 ids, the track's vocab_size is 50257; put the"):
        token_bytes(VOCABS[1], 50257)
