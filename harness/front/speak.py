"""What a run makes of token ids: the text that follows a prompt, or what a text costs. Needs no torch.

    python -m harness.front.speak LOG SHARD VOCABULARY [--weights FILE] [--device DEVICE] [--tokens N]
                                  [--json] [--temperature X [--top_k K] [--seed S]]

With a temperature it writes a shard's text and goes on; without, it tells what all ids but the first cost.
The run's code, out of its log, gives logits in the judge's child, locked up as there.
"""
import argparse
import codecs
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from harness.front.cell import Child, Fails, NotJudged, shown
from harness.front.judge import UNREADABLE, Judged, nll
from harness.shards import read_shard
from harness.vocabulary import token_bytes


def main() -> int:
    """Do what the command line asks for; return 0, 2 where it cannot be done, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m harness.front.speak", description=__doc__)
    for name in ("log", "shard", "vocabulary"):
        parser.add_argument(name, type=Path)
    for name, kind in (("weights", Path), ("tokens", int), ("temperature", float), ("top_k", int)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="text-") as folder:
            run = Judged(asked.log.read_bytes(), Path(folder).resolve(), {"device": asked.device})
            table, ids = token_bytes(asked.vocabulary, run.row["vocab_size"]), read_shard(asked.shard)
            run.take_weights(asked.weights or asked.log.with_suffix(".safetensors"))
            with closing(Child(run.folder, asked.device, 300)) as child:
                if asked.temperature is None:
                    found = evaluate(run, child, ids[:asked.tokens and asked.tokens + 1], table)
                    print(json.dumps(found) if asked.json else sentence(found))
                else:
                    write(generate(run, child, ids.tolist(), asked), table)
    except KeyboardInterrupt:
        return 130
    except (Fails, NotJudged, *UNREADABLE) as error:
        print(f"{asked.log.stem}: {shown(error)}", file=sys.stderr)
        return 2
    return 0


def evaluate(run: Judged, child: Child, ids: np.ndarray, table: list[bytes]) -> dict[str, Any]:
    """Return what all ids but the first cost, in rows of the validation's length, as validation counts them.

    An end of text costs as any other id, and is no byte.
    """
    targets, size = ids[1:], math.prod(run.shape)
    if not len(targets) or ids.max() >= len(table):
        raise ValueError(f"{len(ids)} ids up to {ids.max(initial=0)}; expected 2 or more, below {len(table)}")
    calls = np.zeros((-(-len(targets) // size), size), "<u2")
    calls.flat[:len(targets)] = ids[:-1]
    run.begin(child)
    nats = 0.0
    for i, logits in enumerate(child.logits(list(calls), run.shape, len(table))):
        there = targets[i * size:(i + 1) * size]
        nats += math.fsum(nll(logits[:len(there)], there))
    text_bytes = sum(len(table[i]) for i in targets if i < len(table) - 1)
    return {"run_id": run.verdict["run_id"], "tokens": len(targets), "bytes": text_bytes,
            "nats_per_token": nats / len(targets), "bits_per_byte": nats / math.log(2) / max(1, text_bytes)}


def sentence(found: dict[str, Any]) -> str:
    """Return what a text costs in one line."""
    return ("{nats_per_token:.4f} nats per token, {bits_per_byte:.4f} bits per byte; {tokens} tokens, "
            "{bytes} bytes".format(**found))


def generate(run: Judged, child: Child, ids: list[int], asked: argparse.Namespace) -> Iterator[int]:
    """Yield all ids but the first and those that follow, at most `asked.tokens` and to an end of text."""
    size, T, generator = run.row["vocab_size"], run.shape[1], np.random.default_rng(asked.seed)
    run.setup |= {"shape": [1, T], "last": True}
    run.begin(child)
    yield from ids[1:]
    for _ in range(asked.tokens):
        call, window = np.zeros(1 + T), ids[-T:]
        call[:1 + len(window)] = len(window), *window
        [logits] = child.logits([call], [1, 1], size)
        ids.append(drawn(logits[0, :size], asked.temperature, asked.top_k, generator))
        if ids[-1] == size - 1:
            return
        yield ids[-1]


def drawn(logits: np.ndarray, temperature: float, top_k: int | None, generator: np.random.Generator) -> int:
    """Return an id drawn from the softmax of logits / temperature over the top k; at 0 the most probable."""
    if not np.isfinite(logits.max()):
        raise ValueError("the model's logits are not finite")
    if temperature == 0:
        return int(logits.argmax())
    below = (logits.astype(np.float64) - logits.max()) / temperature
    if top_k is not None and top_k < len(below):
        below[below < np.partition(below, -top_k)[-top_k]] = -np.inf
    weights = np.exp(below)
    return int(generator.choice(len(weights), p=weights / weights.sum()))


def write(ids: Iterator[int], table: list[bytes]) -> None:
    """Write the text of ids as they come; what a terminal would take for a command becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sys.stdout.reconfigure(errors="backslashreplace")
    for i in ids:
        text = decoder.decode(table[i])
        print("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text), end="", flush=True)
    print(decoder.decode(b"", final=True))


if __name__ == "__main__":
    sys.exit(main())
