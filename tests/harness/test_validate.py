"""Validation: the right number, the same at every world size; what a model may not do while it is asked."""
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import small_model

from harness.runlog import first_import
from harness.shards import write_shard
from harness.tripwires import Tripwire
from harness.validate import Validation, validate, write_text


def tokens(n=1025):
    return torch.randint(256, (n,), generator=torch.Generator().manual_seed(3))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_loss(logits, ids):
    """Return the mean cross-entropy in float64."""
    return torch.nn.functional.cross_entropy(logits.double(), ids[1:]).item()


def test_the_loss_is_the_mean_over_exactly_the_tokens_given(alone):
    """Against float64 over each sequence by itself."""
    gpt, ids = small_model(), tokens()
    with torch.no_grad():
        logits = torch.cat([gpt(ids[i:i + 16][None])[0] for i in range(0, 1024, 16)])
    assert abs(validate(gpt, ids, 128, 16, []) - mean_loss(logits, ids)) < 1e-6


def test_every_world_size_gives_the_same_bits(ranks):
    def loss():
        return validate(small_model(), tokens(), 128, 16, [])

    [single] = ranks(1, loss)
    for world_size in (2, 3, 4):
        assert ranks(world_size, loss) == [single] * world_size


def test_uniform_logits_give_the_logarithm_of_the_vocabulary(alone):
    loss = validate(lambda x: torch.zeros(*x.shape, 257), tokens(), 128, 16, [])
    assert loss == pytest.approx(math.log(257), abs=1e-6)


def test_a_loss_that_is_not_finite_is_a_nan_on_every_rank(ranks):
    def logits_of(x):
        return torch.full((*x.shape, 257), math.nan if x[0, 0] == tokens()[0] else 0.0)

    assert all(math.isnan(loss) for loss in ranks(2, validate, logits_of, tokens(), 128, 16, []))


def test_logits_of_another_shape_are_told(alone):
    for logits, said in ((torch.zeros(8, 16), r"\(8, 16\)"), ((torch.zeros(8, 16, 4), None), "tuple"),
                         (torch.zeros(16, 8, 257), r"\(16, 8, 257\)")):
        with pytest.raises(ValueError, match=rf"returned {said}, expected .* shape \(8, 16, vocabulary\)"):
            validate(lambda x: logits, tokens(), 128, 16, [])


def test_logits_of_less_precision_are_scored_in_float32(alone):
    """Cross-entropies of bfloat16 logits taken in bfloat16 are off by up to 1 in 256, here 0.01 nats."""
    logits, ids = torch.randn(1024, 257, generator=torch.Generator().manual_seed(5)).bfloat16(), tokens()
    pieces = iter(logits.view(8, 8, 16, 257))
    assert abs(validate(lambda x: next(pieces), ids, 128, 16, []) - mean_loss(logits, ids)) < 1e-6


class Asked(torch.nn.Module):
    """A model of the tiny track that does something when it is asked for logits."""

    def __init__(self, act):
        super().__init__()
        self.act, self.table = act, torch.nn.Parameter(torch.randn(257, 257))

    def forward(self, ids):
        return self.act(self, ids, self.table[ids].clone())


def validation(folder, act, stored=1500):
    """Return a validation on 1,024 tokens, in pieces of 128, of a shard that holds more."""
    write_shard(folder / "val.bin", tokens(stored).numpy())
    track = SimpleNamespace(val_tokens=1024, val_piece=128, vocab_size=257)
    net, hp = Asked(act), SimpleNamespace(seq_len=16)
    return Validation(track, folder / "val.bin", hp, net, net, torch.device("cpu"))


def test_a_validation_takes_exactly_the_tracks_tokens_of_the_shard(alone, tmp_path):
    """One token more or less, of 1,024, moves the mean by a thousandth of a loss near 6."""
    asked = validation(tmp_path, lambda net, ids, logits: logits)
    (loss, _), ids = asked.measure(seeded(), True), tokens(1500)[:1025]
    assert abs(loss - mean_loss(asked.model.table[ids[:-1]], ids)) < 1e-6 and len(asked.tokens) == 1025


def test_weights_that_change_while_the_model_is_asked_trip(alone, tmp_path):
    def trains(net, ids, logits):
        net.table.data += 1e-4
        return logits

    with pytest.raises(Tripwire, match="the weights changed while the model was asked for logits"):
        validation(tmp_path, trains).measure(seeded(), False)


def test_ranks_that_hold_different_weights_trip(ranks, tmp_path):
    def measure():
        rank = torch.distributed.get_rank()
        asked = validation(tmp_path / str(rank), lambda net, ids, logits: logits)
        torch.nn.init.constant_(asked.model.table, rank)
        with pytest.raises(Tripwire) as error:
            asked.measure(seeded(), False)
        return str(error.value)

    assert ranks(2, measure) == ["validation: the ranks hold different weights"] * 2


def test_buffers_may_differ_between_ranks(ranks, tmp_path):
    """Scales of 8-bit products do: each rank sees other numbers."""
    def measure():
        asked = validation(tmp_path / str(torch.distributed.get_rank()), lambda net, ids, logits: logits)
        asked.model.register_buffer("scale", torch.full((3,), float(torch.distributed.get_rank())))
        return asked.measure(seeded(), probe=True)

    torch.manual_seed(0)
    assert len({*ranks(2, measure)}) == 1


def test_one_cut_is_made_at_the_first_validation_that_asks_for_it(alone, tmp_path):
    calls = []
    asked = validation(tmp_path, lambda net, ids, logits: (calls.append(ids.clone()), logits)[1])
    counts = []
    for probe in (False, True, True):
        asked.measure(seeded(), probe)
        counts.append(len(calls))
    assert counts == [8, 18, 26] and torch.equal(calls[16], calls[8]) and not torch.equal(calls[17], calls[8])


def test_a_missing_mask_trips_there(alone, tmp_path):
    ahead = validation(tmp_path, lambda net, ids, logits: logits + logits.mean(dim=1, keepdim=True))
    ahead.measure(seeded(), probe=False)
    with pytest.raises(Tripwire, match="causality"):
        ahead.measure(seeded(), probe=True)


def test_the_first_import_of_a_script_is_found():
    assert first_import(b'"""doc"""\nfrom harness.run import Run\nimport torch\n') == "harness.run"
    assert first_import(b"import torch, harness\n") == "torch"
    assert first_import(b"x = 1\n") == "nothing"


def test_text_is_written_from_the_model_with_the_same_random_numbers_each_time():
    gpt = small_model()
    with torch.no_grad():
        first, again = (write_text(gpt, 256, 257, 16, torch.device("cpu"), length=12) for _ in range(2))
    assert first == again and len(first) == 12 and all(0 <= i < 257 for i in first)
    assert len(set(first)) > 3
