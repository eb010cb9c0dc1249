"""Losses of n-gram models fitted on a train shard: the lines that a neural model has to get below.

Unigram: counts plus 0.1. Bigram and trigram: interpolated Kneser-Ney with one discount an order (Ney, Essen
and Kneser 1994; Chen and Goodman 1999). An n-gram is packed into one int64, so counting is a sort.
"""
import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

if __name__ == "__main__":  # run as a file, python puts data/ on the path, not the repository
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.shards import read_shard
from harness.vocabulary import token_bytes

UNIGRAM_PSEUDOCOUNT = 0.1


class Table(NamedTuple):
    """The counts of one order. A context is its n-gram without the last token; both key arrays are sorted."""

    keys: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray  # the sum of counts after each context
    types: np.ndarray  # the number of distinct tokens after each context
    discount: float


def pack(tokens: np.ndarray, order: int, base: int) -> np.ndarray:
    """Return every n-gram of that order as one int64, its last token in the lowest digit."""
    length = max(len(tokens) - order + 1, 0)
    keys = np.zeros(length, dtype=np.int64)
    for i in range(order):
        keys = keys * base + tokens[i:i + length]
    return keys


def tabulate(keys: np.ndarray, counts: np.ndarray, base: int) -> Table:
    """Return the table of sorted, distinct keys and their counts."""
    contexts, starts = np.unique(keys // base, return_index=True)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    # A tiny vocabulary may hold no n-gram seen once; the estimate n1 / (n1 + 2 n2) is then 0 or undefined.
    discount = once / (once + 2 * twice) if once else 0.5
    types = np.diff([*starts, len(keys)])
    return Table(keys, counts, contexts, np.add.reduceat(counts, starts), types, discount)


def fit(train: np.ndarray, order: int, base: int) -> list[Table]:
    """Return the Kneser-Ney tables of orders 1 to `order`.

    The highest order holds counts; a lower one holds, for each n-gram, how many different tokens precede it.
    """
    if len(train) < order:
        raise ValueError(f"{len(train)} train tokens, expected at least {order} for an {order}-gram model")
    tables = []
    for k in range(1, order):
        longer = np.unique(pack(train, k + 1, base))
        tables.append(tabulate(*np.unique(longer % base**k, return_counts=True), base))
    tables.append(tabulate(*np.unique(pack(train, order, base), return_counts=True), base))
    return tables


def lookup(sorted_keys: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the value of each key, 0 where it is not among the sorted keys."""
    found = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[found] == keys, values[found], 0)


def kneser_ney(tables: list[Table], history: np.ndarray, words: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return p(word | history), float64, shape (len(words),).

    history: shape (len(tables) - 1, len(words)), earliest token first; the id `vocab_size` stands for
    "no token", which no table has seen, so the model backs off there.
    """
    base = vocab_size + 1
    p = np.full(len(words), 1 / vocab_size)
    context = np.zeros(len(words), dtype=np.int64)
    for k, table in enumerate(tables):
        if k:
            context = context + history[-k].astype(np.int64) * base**(k - 1)
        total = lookup(table.contexts, table.totals, context)
        types = lookup(table.contexts, table.types, context)
        count = lookup(table.keys, table.counts, context * base + words)
        seen = (np.maximum(count - table.discount, 0) + table.discount * types * p) / np.maximum(total, 1)
        p = np.where(total > 0, seen, p)
    return p


def unigram(train: np.ndarray, words: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return p(word) from counts plus UNIGRAM_PSEUDOCOUNT, float64, shape (len(words),)."""
    counts = np.bincount(train, minlength=vocab_size) + UNIGRAM_PSEUDOCOUNT
    return (counts / counts.sum())[words]


def losses(train: np.ndarray, val: np.ndarray, vocab_size: int) -> dict[str, float]:
    """Return nats per token over the targets val[1:], each model fitted on all of train.

    Contexts come from val and run over document borders. The first target has one token before it, not two.
    """
    train, val = np.asarray(train, dtype=np.int64), np.asarray(val, dtype=np.int64)
    if len(val) < 2:
        raise ValueError(f"{len(val)} val tokens, expected at least 2: one input and one target")
    largest = int(max(train.max(initial=0), val.max()))
    if largest >= vocab_size:
        raise ValueError(f"token id {largest}, so --vocab_size is at least {largest + 1}, not {vocab_size}")
    words = val[1:]
    # summed as Python floats by fsum, so that the digits do not depend on the machine's vector width
    found = {"unigram": -math.fsum(np.log(unigram(train, words, vocab_size))) / len(words)}
    for order, name in ((2, "bigram"), (3, "trigram")):
        padded = np.concatenate([np.full(order - 2, vocab_size), val])
        history = np.stack([padded[i:i + len(words)] for i in range(order - 1)])
        p = kneser_ney(fit(train, order, vocab_size + 1), history, words, vocab_size)
        found[name] = -math.fsum(np.log(p)) / len(words)
    return found


def report(train_path: str, val_path: str, vocab_size: int | None = None, tokens: int | None = None,
           vocab: str | None = None) -> dict:
    """Return the losses and, where a vocabulary is given, bytes and bits per byte of the same targets."""
    train, val = read_shard(train_path), read_shard(val_path)
    n_targets = len(val) - 1 if tokens is None else tokens
    if not 0 < n_targets < len(val):
        raise ValueError(f"--tokens {n_targets}: {val_path} has 1 to {len(val) - 1} targets")
    val = np.asarray(val[:n_targets + 1])
    table = token_bytes(vocab) if vocab else None
    if vocab_size is None:
        vocab_size = len(table) if table else int(max(train.max(initial=0), val.max())) + 1
    result = {"tokens": n_targets, "train_tokens": len(train), "vocab_size": vocab_size,
              "nats_per_token": losses(train, val, vocab_size)}
    if table:
        if int(val.max()) >= len(table):
            raise ValueError(f"{val_path}: token id {val.max()}, but {vocab} has {len(table)} ids")
        n_bytes = int(np.array([*map(len, table[:-1]), 0])[val[1:]].sum())  # the end of text is none
        result["bytes"] = n_bytes
        result["bits_per_byte"] = {name: nats * n_targets / math.log(2) / n_bytes
                                   for name, nats in result["nats_per_token"].items()} if n_bytes else None
    return result


def main(argv: list[str] | None = None) -> int:
    """Print the report; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Losses of unigram, bigram and trigram models, the steps of a ladder for a neural model.",
        epilog="example: python data/ngrams.py data/sample/sample_train_000000.bin"
               " data/sample/sample_val_000000.bin --vocab data/sample/vocab.bpe",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="shard to fit on, all of it")
    parser.add_argument("val", help="shard to score")
    parser.add_argument("--vocab", help="vocab.bpe of the shards; adds bytes and bits per byte")
    parser.add_argument("--vocab_size", type=int, help="default: that of --vocab, else the largest id plus 1")
    parser.add_argument("--tokens", type=int, help="score the first TOKENS targets of val (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        result = report(args.train, args.val, args.vocab_size, args.tokens, args.vocab)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result))
        return 0
    bits = result.get("bits_per_byte")
    size = f", {result['bytes']} bytes" if "bytes" in result else ""
    print(f"{result['tokens']} targets{size}; fitted on {result['train_tokens']} tokens,"
          f" vocabulary {result['vocab_size']}")
    for name, nats in result["nats_per_token"].items():
        print(f"{name:8} {nats:.4f} nats/token" + (f"  {bits[name]:.4f} bits/byte" if bits else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
