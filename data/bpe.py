"""Text to token ids: a tiktoken encoding of any vocab.bpe file, GPT-2's or our own."""
from pathlib import Path
from typing import Any

from harness.vocabulary import END_OF_TEXT, token_bytes

# GPT-2's pre-tokenisation, as tiktoken spells it (github.com/openai/tiktoken, r50k_pat_str): the same pieces
# as GPT-2's own pattern, with possessive quantifiers, which spare the backtracking.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def encoding(vocab_path: str | Path) -> Any:
    """Return the tiktoken.Encoding of a vocab.bpe file. Its last id, `eot_token`, ends a text.

    Encode documents with `encode_ordinary`, which reads the name of that token inside a text as plain text.
    """
    import tiktoken
    table = token_bytes(vocab_path)
    ranks = {token: rank for rank, token in enumerate(table[:-1])}
    return tiktoken.Encoding(str(vocab_path), pat_str=PATTERN, mergeable_ranks=ranks,
                             explicit_n_vocab=len(table),
                             special_tokens={END_OF_TEXT.decode(): len(table) - 1})
