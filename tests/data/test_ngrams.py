"""data/ngrams.py: probabilities that sum to one, a plain reference, the numbers in the sample's README."""
import json
import math
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from data.ngrams import fit, kneser_ney, losses, unigram
from harness.shards import read_shard, write_shard

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
V = 7


@pytest.fixture(scope="module")
def train():
    """A skewed stream over 6 of 7 ids: seen and unseen contexts, repeats, and id 6 never."""
    return np.random.default_rng(0).choice(6, size=60, p=[0.5, 0.2, 0.14, 0.1, 0.05, 0.01])


def reference(train, order, vocab_size):
    """Interpolated Kneser-Ney in plain dictionaries; returns p(word, context)."""
    def grams(n):
        return [tuple(int(t) for t in train[i:i + n]) for i in range(len(train) - n + 1)]
    levels = {n: Counter(g[1:] for g in set(grams(n + 1))) for n in range(1, order)}
    levels[order] = Counter(grams(order))
    after = {n: defaultdict(dict) for n in levels}
    for n, counts in levels.items():
        for g, c in counts.items():
            after[n][g[:-1]][g[-1]] = c

    def p(word, context):
        n = len(context) + 1
        lower = p(word, context[1:]) if context else 1 / vocab_size
        seen = after[n].get(context)
        if not seen:
            return lower
        n1, n2 = (sum(c == k for c in levels[n].values()) for k in (1, 2))
        discount = n1 / (n1 + 2 * n2) if n1 else 0.5
        return (max(seen.get(word, 0) - discount, 0) + discount * len(seen) * lower) / sum(seen.values())
    return p


def predictions(train, order):
    """p of all words in all contexts of the order, "no token" included, shape (contexts, V); the contexts."""
    contexts = np.array(list(np.ndindex(*[V + 1] * (order - 1))))
    history = np.repeat(contexts, V, axis=0).T
    words = np.tile(np.arange(V), len(contexts))
    return kneser_ney(fit(train, order, V + 1), history, words, V).reshape(-1, V), contexts


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_in_every_context_seen_or_not(train, order):
    p, _ = predictions(train, order)
    assert p.dtype == np.float64 and (p > 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-14)  # some tens of float64 operations


def test_unigram_sums_to_one_and_gives_an_unseen_word_the_pseudocount(train):
    p = unigram(train, np.arange(V), V)
    assert math.isclose(p.sum(), 1, abs_tol=1e-15) and math.isclose(p[6], 0.1 / (60 + 0.7))


@pytest.mark.parametrize("order", [2, 3])
def test_kneser_ney_equals_a_plain_reference(train, order):
    p, contexts = predictions(train, order)
    expected = reference(train, order, V)
    table = [[expected(w, tuple(int(t) for t in c)) for w in range(V)] for c in contexts]
    np.testing.assert_allclose(p, table, rtol=1e-13)


def test_losses_are_those_of_the_reference_and_the_first_target_has_one_token_before_it(train):
    val = np.array([0, 3, 1, 0, 6, 6, 2])
    found = losses(train, val, V)
    for name, last in (("bigram", 1), ("trigram", 2)):
        p, padded = reference(train, last + 1, V), [V] * (last - 1) + val.tolist()
        nats = [-math.log(p(padded[i + last], tuple(padded[i:i + last]))) for i in range(len(val) - 1)]
        assert math.isclose(found[name], np.mean(nats), rel_tol=1e-13)


def test_a_longer_context_helps_on_text_that_repeats():
    found = losses(np.tile([0, 1, 0, 2], 200), np.tile([0, 1, 0, 2], 20), 3)
    assert found["unigram"] > found["bigram"] > found["trigram"] and found["trigram"] < 0.05


@pytest.fixture
def small(tmp_path):
    """Shards to train and to validate on, of six words."""
    paths = tmp_path / "train.bin", tmp_path / "val.bin"
    for path, tokens in zip(paths, ([0, 1, 2, 3, 4, 5] * 9, [0, 1, 2, 1, 5])):
        write_shard(path, np.array(tokens))
    return paths


def run(*args):
    command = [sys.executable, str(ROOT / "data" / "ngrams.py"), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_example_of_help_prints_the_ladder_of_the_readme():
    """The README's table is the tool's output on the committed shards, to the digits shown."""
    example = run("--help")[1].replace("\n", " ").split("example: python data/ngrams.py ")[1]
    code, out, _ = run(*shlex.split(example), "--json")
    found = json.loads(out)
    found["nats_per_token"]["uniform, ln 4096"] = math.log(4096)
    readme = (SAMPLE / "README.md").read_text()
    rows = re.findall(r"^\| ([\w, ]+) \| (\d\.\d{4}) \| (\d\.\d{4}) \|$", readme, re.M)
    bits = found["tokens"] / math.log(2) / found["bytes"]
    assert code == 0 and {name: (nats, bits) for name, nats, bits in rows} == {
        name: (f"{nats:.4f}", f"{nats * bits:.4f}") for name, nats in found["nats_per_token"].items()}


def test_the_track_row_has_the_ladder_and_the_bytes_of_its_own_validation_tokens():
    row = tomllib.loads((ROOT / "harness" / "tracks.toml").read_text())["sample"]
    train, val = (ROOT / row["data"] / f"sample_{part}_000000.bin" for part in ("train", "val"))
    options = ("--vocab", ROOT / row["vocabulary"], "--tokens", row["val_tokens"], "--json")
    code, out, _ = run(train, val, *options)
    found = json.loads(out)
    assert code == 0 and found["bytes"] == row["val_bytes"]
    assert {name: round(loss, 4) for name, loss in found["nats_per_token"].items()} == row["baselines"]


@pytest.mark.parametrize("options, said", [
    (["--tokens", 9], "1 to 4 targets"), (["--tokens", 0], "1 to 4 targets"),
    (["--vocab_size", 5], "at least 6"), (["--vocab", "missing.bpe"], "missing.bpe")])
def test_a_wrong_option_is_one_line_and_exit_code_2(small, options, said):
    code, out, err = run(*small, *options)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_tokens_scores_the_first_targets_only(small):
    code, out, _ = run(*small, "--tokens", 3, "--json")
    train, val = map(read_shard, small)
    assert code == 0 and json.loads(out)["nats_per_token"] == losses(train, val[:4], 6)
