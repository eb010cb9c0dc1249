"""Writes text with a run's model, as it comes; the run's code gives logits in the judge's sandbox."""
import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from records.tools.again import launch as launches
from records.tools.again.judge import allowed_log
from records.tools.read.logs import LOG
from records.tools.read.values import ReadError

WEIGHTS = {"metavar": "FILE", "type": Path, "help": "default: RUN.safetensors beside the log"}
DEVICE = {"metavar": "DEVICE", "choices": ("cpu", "cuda"), "default": "cpu", "help": "cpu or cuda"}
ARGUMENTS = {
    "log": LOG,
    "--prompt": {"metavar": "TEXT", "default": "", "help": "default: none, the beginning of a text"},
    "--tokens": {"metavar": "N", "type": int, "default": 100,
                 "help": "at most so many new ones, fewer where the text ends (default: 100)"},
    "--temperature": {"metavar": "X", "type": float, "default": 0.8,
                      "help": "0: always the most probable token (default: 0.8)"},
    "--top_k": {"metavar": "K", "type": int, "default": 50,
                "help": "draw among the K most probable tokens (default: 50)"},
    "--seed": {"metavar": "N", "type": int, "default": 0, "help": "of what is drawn (default: 0)"},
    "--weights": WEIGHTS,
    "--device": DEVICE,
    "--yes": "run the code without asking",
}


def main(arguments: argparse.Namespace) -> int:
    """Write the prompt and what follows; return the exit code."""
    words = []
    for name, least, most in (("tokens", 1, 1 << 20), ("temperature", 0, 1000), ("top_k", 1, 1 << 20),
                              ("seed", 0, (1 << 63) - 1)):
        words.append(f"--{name}={(value := getattr(arguments, name))}")
        if not least <= value <= most:
            raise ReadError(f"--{name} {value}: expected {least} to {most}")
    return ask(arguments, lambda vocabulary, folder: launches.write_ids(
        arguments.prompt.encode(errors="replace"), vocabulary, folder / "prompt"), words)


def ask(arguments: argparse.Namespace, ids: Callable[[Path, Path], Path], words: Iterable[str]) -> int:
    """Have a run go on with a text or tell what it costs; return the exit code.

    ids: gives the shard of the text, for a vocabulary and a folder that it may lie in.
    """
    log = allowed_log(arguments.log, arguments.yes)
    words = [*words, f"--device={arguments.device}"]
    words += [f"--weights={arguments.weights}"] if arguments.weights else []
    vocabulary = launches.vocabulary_of(log.manifest["track"])
    with launches.Signals() as signals, tempfile.TemporaryDirectory(prefix="records-") as folder:
        shard = ids(vocabulary, Path(folder))
        child = launches.start("harness.front.speak", log.path.resolve(), shard, vocabulary, *words,
                               stdin=subprocess.DEVNULL)
        signals.children.append(child)
        code = child.wait()
    return 130 if signals.caught else 0 if code == 0 else 2
