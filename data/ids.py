"""Writes the ids of a text as a shard, behind an end of text: python -m data.ids VOCAB SHARD < TEXT."""
import sys

import numpy as np

from data.bpe import encoder
from harness.shards import write_shard
from harness.vocabulary import token_bytes


def main(vocab: str, shard: str) -> None:
    """Write stdin as a shard. Bytes that are not UTF-8 become U+FFFD."""
    ids = encoder(vocab)(sys.stdin.buffer.read().decode(errors="replace"))
    write_shard(shard, np.array([len(token_bytes(vocab)) - 1, *ids]))


if __name__ == "__main__":
    main(*sys.argv[1:])
