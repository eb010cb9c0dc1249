"""Show that a test holds each of the referee's own lines: change one at a time, and see a test fail.

    python bench/mutate.py                all of them, some minutes
    python bench/mutate.py barrier betas  those whose names hold one of the words

Each change is made in a temporary copy of the checkout, where only the test named beside it runs. Exit code 1
where a change survives its test, or where its text is not found exactly once.
"""
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = "tests/shipped.py"  # names the sha256 of train_gpt2.py


class Mutation(NamedTuple):
    """One line made wrong, and the test that must see it."""

    name: str
    file: str
    old: str  # found exactly once
    new: str
    test: str  # file or node that must fail


MUTATIONS = (
    Mutation("clock.start without the barrier", "harness/clock.py", "        _barrier()\n", "",
             "tests/harness/test_clock.py"),
    Mutation("clock.stop without synchronise", "harness/clock.py",
             "        self.synchronize()\n        length", "        length", "tests/harness/test_clock.py"),
    Mutation("the fastest rank's time", "harness/clock.py", "dist.ReduceOp.MAX", "dist.ReduceOp.MIN",
             "tests/harness/test_clock.py"),
    Mutation("the mean over ranks of their times", "harness/clock.py", "_all_reduce(length, op=_max)\n",
             "_all_reduce(length)\n        length //= dist.get_world_size()\n",
             "tests/harness/test_clock.py"),
    Mutation("validation loss without float32", "harness/validate.py", "logits.flatten(0, 1).float()",
             "logits.flatten(0, 1)", "tests/harness/test_validate.py"),
    Mutation("a validation token too many", "harness/validate.py", "[:track.val_tokens + 1]",
             "[:track.val_tokens + 2]", "tests/harness/test_validate.py"),
    Mutation("weights change during validation", "harness/validate.py",
             "if state_digest(self.model, []) != before:", "if False:", "tests/harness/test_validate.py"),
    Mutation("no cut at the first validation", "harness/validate.py", "if probe and not self._probed",
             "if False", "tests/harness/test_validate.py"),
    Mutation("NaN logits pass the causality probe", "harness/tripwires.py", "if not change <= most:",
             "if change > most:", "tests/harness/test_tripwires.py"),
    Mutation("the probe takes a fifth of a logit for rounding", "harness/tripwires.py",
             "ROUNDING = 2 * 2**-7", "ROUNDING = 0.2", "tests/harness/test_tripwires.py"),
    Mutation("weights kept from the warm-up", "harness/checkpoint.py",
             '    put(state["model"], tensors_in(model), {})\n', "", "tests/harness/test_checkpoint.py"),
    Mutation("what the warm-up made of optimizers' state kept", "harness/checkpoint.py",
             "            del held[key]\n", "            pass\n", "tests/harness/test_checkpoint.py"),
    Mutation("state put back in another dtype", "harness/checkpoint.py",
             "(now.dtype, now.shape) == (items.dtype, items.shape)", "now.shape == items.shape",
             "tests/harness/test_checkpoint.py"),
    Mutation("random numbers kept from the warm-up", "harness/checkpoint.py",
             '    torch.set_rng_state(state["cpu_rng"])\n', "", "tests/harness/test_checkpoint.py"),
    Mutation("a checkpoint whose tokens cannot be", "harness/checkpoint.py", "not 0 < taken <= tokens",
             "False", "tests/harness/test_checkpoint.py"),
    Mutation("tied weights written twice", "harness/weights.py", "        seen.add(place)\n", "",
             "tests/harness/test_weights.py"),
    Mutation("a tied head not active", "harness/parameters.py",
             "for m in model.modules() if not isinstance(m, nn.Embedding)\n", "for m in ()\n",
             "tests/harness/test_parameters.py"),
    Mutation("ranks' shares swapped", "harness/tokens.py", "self.position + rank * share",
             "self.position + (world_size - 1 - rank) * share", "tests/harness/test_tokens.py"),
    Mutation("the seed unused", "harness/run.py", "plan.track, plan.options.seed\n", "plan.track, 0\n",
             "tests/harness/test_run.py::test_seeds_differ_one_repeats_to_the_bit_and_a_run_may_stop_early"),
    Mutation("the launcher without an exit code", "harness/front/launch.py", "    sys.exit(main())\n",
             "    main()\n", "tests/harness/front/test_launch.py"),
    Mutation("the launcher's exit code always 1", "harness/front/launch.py",
             "return next((code for code in codes if code > 0), 128 - codes[0])", "return 1",
             "tests/harness/front/test_launch.py"),
    Mutation("a proof at the whole of alpha", "records/tools/check/significance.py", "test.p < share:",
             "test.p < alpha:", "tests/records/check/test_significance.py"),
    Mutation("the tolerance's `<=` a `<`", "records/tools/again/rerun.py", "abs(apart) <= most",
             "abs(apart) < most", "tests/records/again/test_rerun.py"),
    Mutation("Adam's betas reversed", "train_gpt2.py", "betas=hp.adam_betas", "betas=hp.adam_betas[::-1]",
             "tests/test_golden.py"),
    Mutation("Adam's betas constant", "train_gpt2.py", "betas=hp.adam_betas", "betas=(0.9, 0.95)",
             "tests/test_golden.py"),
    Mutation("Muon's momentum constant", "train_gpt2.py", "hp.muon_lr, hp.muon_momentum", "hp.muon_lr, 0.95",
             "tests/test_train_gpt2.py"),
    Mutation("Muon's momentum in the recipe changed", "train_gpt2.py", "muon_momentum: float = 0.95",
             "muon_momentum: float = 0.9", "tests/test_golden.py"),
    Mutation("Muon's momentum not sharded", "train_gpt2.py", "            for p in owned:\n",
             "            for p in params:\n", "tests/test_train_gpt2.py"),
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
    """Return what is wrong with a mutation's text in this checkout; nothing where it stands there once."""
    path = ROOT / mutation.file
    found = path.read_text().count(mutation.old) if path.is_file() else 0
    return "" if found == 1 else f"{mutation.name}: {found} times in {mutation.file}, expected once"


def survives(mutation: Mutation, folder: Path) -> str:
    """Return why a mutation counts as alive in a copy of the checkout; nothing where its test failed."""
    path, shipped = folder / mutation.file, folder / SHIPPED
    kept = {file: file.read_text() for file in (path, shipped) if file.is_file()}
    path.write_text(kept[path].replace(mutation.old, mutation.new))
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (kept[path], path.read_text())]
    if shipped in kept:  # a recipe's tests are skipped for any other script than the one named there
        shipped.write_text(kept[shipped].replace(*digests))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    for file, text in kept.items():
        file.write_text(text)
    if done.returncode == 1:
        return ""
    said = f"pytest left with {done.returncode}: {done.stdout[-300:]}"
    return said if done.returncode else "its test passes"


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
            print(f"survived  {mutation.name}: {why}" if why else f"killed    {mutation.name}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} killed")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
