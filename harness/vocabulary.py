"""Token ids back to bytes: reads GPT-2's vocab.bpe text format. Standard library only.

Ids 0 to 255 are the single bytes in GPT-2's order, then one id a merge, in the file's order; the last id ends
a text. So the merges alone define a vocabulary, and GPT-2's encoder.json is not needed.
"""
from collections.abc import Iterable, Sequence
from pathlib import Path

END_OF_TEXT = b"<|endoftext|>"
# GPT-2 numbers the bytes that print in Latin-1 first and writes them as themselves; the others follow and are
# written as U+0100, U+0101, ... (bytes_to_unicode in github.com/openai/gpt-2, src/encoder.py).
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = sorted(set(range(256)) - set(_PRINTED))
BYTE_ORDER = bytes(_PRINTED + _HIDDEN)
ALPHABET = "".join(map(chr, [*_PRINTED, *range(0x100, 0x100 + len(_HIDDEN))]))
_BYTE_OF = dict(zip(ALPHABET, BYTE_ORDER))


def token_bytes(path: str | Path, vocab_size: int | None = None) -> list[bytes]:
    """Return the bytes of every id of a vocab.bpe file, vocab_size of them where that is given.

    The last is END_OF_TEXT, a name that stands for no text. A ValueError names the file and
    the line where it breaks the format.
    """
    lines = Path(path).read_bytes().decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    if not lines[0].startswith("#version"):
        raise ValueError(f"{path}: line 1 is {lines[0][:40]!r}, expected GPT-2's '#version ...'")
    table = dict.fromkeys(bytes([b]) for b in BYTE_ORDER)  # in order
    for number, line in enumerate(lines[1:], start=2):
        try:
            left, right = (bytes([_BYTE_OF[c] for c in half]) for half in line.split(" "))
        except (KeyError, ValueError):  # another character, another number of tokens
            left = right = b""
        if not {left, right} <= table.keys() or left + right in table:
            raise ValueError(f"{path}: line {number} is {line[:40]!r}, expected two tokens that earlier "
                             f"lines make, and that make a new one")
        table[left + right] = None
    if vocab_size not in (None, len(table) + 1):
        raise ValueError(f"{path}: {len(table) + 1} ids, the track's vocab_size is {vocab_size}; put the "
                         f"vocab.bpe that the shards were made with there")
    return [*table, END_OF_TEXT]


def decode(ids: Iterable[int], table: Sequence[bytes]) -> str:
    """Return the text of the ids. Bytes that are not UTF-8 (a cut character, say) become U+FFFD."""
    return b"".join(table[i] for i in ids).decode("utf-8", errors="replace")
