"""Cheats of each class do not stand; honest runs are not accused."""
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cheats.__main__ import ALL, outcomes
from tests.cheats.arena import Arena, Cheat, Outcome
from tests.tiny import ROOT, record_script

# stretches of some tenths of a second: shorter ones are uneven on a busy host, and `pace` says so
LONG = (("num_iterations: int = 8", "num_iterations: int = 400"),
        ("val_every: int = 8", "val_every: int = 100"))
SHIPPED = {path.stem: path.read_text() for path in sorted(ROOT.glob("submissions/*.py"))} | {
    path.parent.name: record_script(path.parent) for path in sorted(ROOT.glob("records/*/*/record.json"))}
SIZES = dict(vocab_size=257, n_layer=1, n_embd=32, seq_len=32, batch_tokens=256, epochs=1, num_iterations=200,
             cooldown_iters=100, warmup_iters=20, val_every=50)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return dict(outcomes(tmp_path_factory.mktemp("cheats")))


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    return Arena(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def load() -> Iterator[None]:
    """Have every core busy with something else."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    yield
    for process in busy:
        process.kill()
        process.wait()


def honest(base: str, seeds: int, *instead: tuple[str, str]) -> Cheat:
    return Cheat(of="", what="", caught="", track="easy", base=base, instead=instead, seeds=range(seeds))


def smaller(source: str) -> str:
    """Return a shipped submission whose recipe for the laptop has a few small steps."""
    above, recipe, below = source.partition('"sample": Hyperparameters(')
    mine, close, below = below.partition("),\n}")
    for name, value in SIZES.items():
        mine = re.sub(rf"\b{name}=\d+", f"{name}={value}", mine)
    return f'{above}"tiny": Hyperparameters({mine}{close}{below}'


def test_there_are_two_cheats_of_each_class_and_thirty_in_all():
    classes = [cheat.of for cheat in ALL.values()]
    assert all(classes.count(f"C{i}") >= 2 for i in range(1, 9)) and len(ALL) >= 30


@pytest.mark.slow
def test_no_cheat_is_proven(found):
    assert not {name: outcome.said for name, outcome in found.items() if outcome.escaped}


@pytest.mark.slow
def test_nine_of_ten_are_caught_on_the_line_that_is_there_for_them(found):
    missed = {name: outcome for name, outcome in found.items() if not outcome.caught}
    assert len(missed) <= len(found) // 10, missed


@pytest.mark.slow
def test_the_honest_base_is_proven_with_nothing_to_review(arena):
    logs = arena.claim("honest", honest(Cheat.base, 4, *LONG))
    assert arena.accusations(logs, logs) == ("PROVEN", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_submission_is_accused(name, arena):
    logs = arena.claim(name, honest(smaller(SHIPPED[name]), 2))
    assert arena.accusations(logs, logs[:1])[1].keys() <= {"significance"}


@pytest.mark.slow
def test_twenty_seeds_on_a_host_whose_cores_are_all_busy_are_not_accused(arena, load):
    logs = arena.claim("busy", honest(Cheat.base, 20, *LONG))
    assert arena.accusations(logs, logs[:1])[1].keys() <= {"significance"}
