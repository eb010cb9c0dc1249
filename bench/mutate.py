"""Show that a test holds each of the referee's own lines: change one at a time, and see a test fail.

    python bench/mutate.py                all of them, some minutes
    python bench/mutate.py barrier betas  those whose names hold one of the words

Each change is made in a temporary copy of the checkout, where only the tests named beside it run; the copy's file is
put back afterwards. Exit code 1 where a change survives its tests, or where its text is not found exactly once.
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """One line made wrong, and the tests that must see it."""

    name: str
    file: str
    old: str  # found exactly once
    new: str
    tests: tuple[str, ...]


H = "tests/harness/"
MUTATIONS = (
    Mutation("clock.start without the barrier", "harness/clock.py", "        _barrier()\n", "",
             (f"{H}test_clock.py",)),
    Mutation("clock.stop without synchronise", "harness/clock.py",
             '"no timed segment is open"\n        self.synchronize()\n', '"no timed segment is open"\n',
             (f"{H}test_clock.py",)),
    Mutation("the fastest rank's time for the slowest's", "harness/clock.py", "dist.all_reduce, dist.ReduceOp.MAX",
             "dist.all_reduce, dist.ReduceOp.MIN", (f"{H}test_clock.py",)),
    Mutation("the ranks' mean time for the slowest's", "harness/clock.py",
             "        _all_reduce(length, op=_max)\n",
             "        _all_reduce(length)\n        length //= dist.get_world_size()\n", (f"{H}test_clock.py",)),
    Mutation("validation loss without float32", "harness/validate.py", "logits.flatten(0, 1).float(), targets",
             "logits.flatten(0, 1), targets", (f"{H}test_validate.py",)),
    Mutation("a validation token too many", "harness/validate.py", "[:track.val_tokens + 1]",
             "[:track.val_tokens + 2]", (f"{H}test_validate.py",)),
    Mutation("weights change during validation", "harness/validate.py",
             "if state_digest(self.model, []) != before:", "if False:", (f"{H}test_validate.py",)),
    Mutation("NaN logits pass the causality probe", "harness/tripwires.py", "if not change <= tolerance:",
             "if change > tolerance:", (f"{H}test_tripwires.py",)),
    Mutation("the probe's bf16 tolerance 100", "harness/tripwires.py", '"bfloat16": 0.1,', '"bfloat16": 100.0,',
             (f"{H}test_validate.py",)),
    Mutation("warm-up leaves the weights changed", "harness/tripwires.py",
             "tensor.copy_(self._tensors[name])", "pass", (f"{H}test_tripwires.py",)),
    Mutation("warm-up leaves the optimizers' state", "harness/tripwires.py",
             "            optimizer.state.clear()\n", "", (f"{H}test_tripwires.py",)),
    Mutation("a tied head is not active", "harness/parameters.py",
             "for m in model.modules() if not isinstance(m, nn.Embedding)\n", "for m in ()\n",
             (f"{H}test_parameters.py",)),
    Mutation("ranks' shares swapped", "harness/tokens.py", "self._position + rank * share",
             "self._position + (world_size - 1 - rank) * share", (f"{H}test_tokens.py",)),
    Mutation("the launcher drops the exit code", "harness/front/launch.py", "    sys.exit(main())\n", "    main()\n",
             (f"{H}front/test_launch.py",)),
    Mutation("the launcher says 1 whatever the ranks say", "harness/front/launch.py",
             "return own[0] if own else 128 - codes[0]", "return 1", (f"{H}front/test_launch.py",)),
    Mutation("a rank's share is summed, not the mean taken", "harness/reduce.py",
             "self._over_ranks(sums[0])).div_(tokens)", "self._over_ranks(sums[0]))", (f"{H}test_reduce.py",)),
)


def copy_checkout(folder: Path) -> None:
    """Copy what git tracks, and what it does not ignore, of this checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def misplaced(mutation: Mutation) -> str:
    """Return what is wrong with a mutation's text in this checkout; nothing where it is there exactly once."""
    path = ROOT / mutation.file
    found = path.read_text().count(mutation.old) if path.is_file() else 0
    return "" if found == 1 else f"{mutation.name}: {found} times in {mutation.file}, expected once"


def survives(mutation: Mutation, folder: Path) -> str:
    """Return why a mutation counts as alive in a copy of the checkout; nothing where a test failed."""
    path = folder / mutation.file
    whole = path.read_text()
    path.write_text(whole.replace(mutation.old, mutation.new))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    finally:
        path.write_text(whole)
    if done.returncode == 1:
        return ""
    return "its tests pass" if done.returncode == 0 else f"pytest left with {done.returncode}: {done.stdout[-300:]}"


def main(words: list[str]) -> int:
    """Run the mutations whose name holds a word, all without words; print one line each."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    if wrong := list(filter(None, map(misplaced, MUTATIONS))):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        copy_checkout(Path(name))
        for mutation in chosen:
            why = survives(mutation, Path(name))
            alive += bool(why)
            print(f"{'survived' if why else 'killed':8}  {mutation.name}{f' ({why})' if why else ''}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} killed")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
