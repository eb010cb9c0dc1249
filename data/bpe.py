"""Text to token ids by any vocab.bpe file, GPT-2's or our own: with tiktoken or, slower, without a package.

    python -m data.bpe VOCAB DIR         writes the files that transformers' GPT2Tokenizer reads
"""
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from heapq import heappop, heappush
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.vocabulary import ALPHABET, BYTE_ORDER, END_OF_TEXT, token_bytes

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


def encoder(vocab_path: str | Path) -> Callable[[str], list[int]]:
    """Return what encodes a text as encoding(vocab_path).encode_ordinary does, without a package."""
    ranks = {token: rank for rank, token in enumerate(token_bytes(vocab_path)[:-1])}

    @cache
    def ids(piece: str) -> list[int]:
        parts = [bytes([byte]) for byte in piece.encode()]
        n, heap = len(parts), []  # of pairs, the lowest rank first; one that is gone stays until its turn
        left, right = [*range(-1, n - 1)], [*range(1, n + 1)]

        def offer(i: int) -> None:
            if i >= 0 and right[i] < n and (pair := parts[i] + parts[right[i]]) in ranks:
                heappush(heap, (ranks[pair], i))

        for i in range(n):
            offer(i)
        while heap:
            rank, i = heappop(heap)
            if parts[i] and (j := right[i]) < n and ranks.get(parts[i] + parts[j]) == rank:
                parts[i], parts[j], right[i] = parts[i] + parts[j], b"", right[j]
                if right[j] < n:
                    left[right[j]] = i
                offer(left[i])
                offer(i)
        return [ranks[part] for part in parts if part]
    return lambda text: [i for piece in plain_pattern().findall(text) for i in ids(piece)]


@cache
def plain_pattern() -> re.Pattern:
    """Return PATTERN for re, which has no \\p, and whose \\s has four characters more."""
    pattern = re.sub(r"\[.*?\]|\\s|\\p\{.\}", lambda m: m[0] if m[0][0] == "[" else f"[{m[0]}]",
                     PATTERN.replace(r"\S", r"[^\s]"))
    for name, holds in ((r"\p{L}", str.isalpha), (r"\p{N}", lambda c: unicodedata.category(c)[0] == "N"),
                        (r"\s", lambda c: c.isspace() and not "\x1c" <= c <= "\x1f")):
        pattern = pattern.replace(name, "".join(ranges(holds)))
    return re.compile(pattern)


def ranges(holds: Callable[[str], bool]) -> Iterator[str]:
    """Yield the characters of which something holds, as ranges of a regular expression's class."""
    for there, run in groupby(map(chr, range(sys.maxunicode + 1)), holds):
        if there:
            chars = list(run)
            yield f"{re.escape(chars[0])}-{re.escape(chars[-1])}"


def main(vocab_path: str, folder: str) -> None:
    """Write merges.txt, vocab.json and tokenizer_config.json into a folder."""
    table, letters, end = token_bytes(vocab_path), dict(zip(BYTE_ORDER, ALPHABET)), END_OF_TEXT.decode()
    ids = {"".join(map(letters.get, token)): rank for rank, token in enumerate(table[:-1])}
    words = {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
    (Path(folder) / "merges.txt").write_bytes(Path(vocab_path).read_bytes())
    (Path(folder) / "vocab.json").write_text(json.dumps({**ids, end: len(table) - 1}))
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(*sys.argv[1:])
