"""Tells what a text costs a run's model, in nats per token and bits per byte, as the validation counts."""
import argparse
from pathlib import Path

from records.tools.again import launch as launches
from records.tools.again.generate import DEVICE, WEIGHTS, ask
from records.tools.read.logs import LOG
from records.tools.read.values import ReadError

ARGUMENTS = {
    "log": LOG,
    "text": {"metavar": "TEXT|SHARD", "type": Path, "help": "a file of text, or of ids (*.bin)"},
    "--tokens": {"metavar": "N", "type": int, "help": "the first N alone (default: all)"},
    "--weights": WEIGHTS,
    "--device": DEVICE,
    "--yes": "run the code without asking",
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Print what the text costs; return the exit code."""
    if arguments.tokens is not None and arguments.tokens < 1:
        raise ReadError(f"--tokens {arguments.tokens}: expected at least 1")
    words = [f"--tokens={arguments.tokens}"] if arguments.tokens else []
    return ask(arguments, lambda vocabulary, folder: launches.shard_of(arguments.text, vocabulary, folder),
               [*words, *["--json"] * arguments.json])
