"""Tripwires: what looks ahead, keeps something from the warm-up, or replaces a piece of the harness."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny import small_model

import harness.clock
import harness.tripwires
import harness.validate
from harness.tripwires import HarnessWatch, Snapshot, Tripwire, check_causality, state_digest

INPUTS = torch.randint(256, (8, 16), generator=torch.Generator().manual_seed(3))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def looks_ahead(x):
    """Logits that say which token comes next in the sequence."""
    return F.pad(F.one_hot(x[:, 1:], 257).float() * 0.01, (0, 0, 0, 1))


def looks_at_the_next_sequence(x):
    return F.pad(F.one_hot(x[1:, :1], 257).float(), (0, 0, x.shape[1] - 1, 0, 0, 1))


@pytest.mark.parametrize("cheat, most", [(looks_ahead, 85), (looks_at_the_next_sequence, 1)])
def test_a_model_that_looks_ahead_trips(cheat, most):
    """100 draws of one cut.

    A leak over one place shows where the cut is not at a border, one into the next sequence only where it is:
    1 cut in 16.
    """
    generator, said = seeded(), []
    for _ in range(100):
        try:
            check_causality(cheat, INPUTS, 256, 1e-3, generator, cuts=1)
        except Tripwire as error:
            said.append("causality" in str(error))
    assert len(said) > most and all(said)


def test_a_causal_model_never_trips():
    check_causality(small_model(), INPUTS, 256, 1e-5, seeded(), cuts=50)


def test_logits_that_other_tokens_turn_into_nan_trip():
    """A comparison with NaN is false both ways: it must not count as a small change."""
    def logits_of(x):
        return torch.full((*x.shape, 257), 0.0 if torch.equal(x, INPUTS) else math.nan)

    with pytest.raises(Tripwire, match="moved earlier logits by nan"):
        check_causality(logits_of, INPUTS, 256, 1e-3, seeded())


def test_the_causality_check_writes_into_no_tensor_of_the_models():
    """It once subtracted in place, in the logits that the model had given it."""
    logits = torch.randn(8, 16, 257)
    kept = logits.clone()
    check_causality(lambda x: logits, INPUTS, 256, 1e-3, seeded())
    assert torch.equal(logits, kept)


def trained_once(gpt: torch.nn.Module, adam: torch.optim.Adam) -> None:
    for p in gpt.parameters():
        p.grad = torch.ones_like(p)
    adam.step()


def test_a_changed_weight_buffer_attribute_or_optimizer_state_or_two_weights_swapped_change_the_digest():
    gpt = small_model()
    adam = torch.optim.Adam(gpt.parameters())
    gpt.hidden = [torch.zeros(3)]
    trained_once(gpt, adam)
    before = state_digest(gpt, [adam])
    assert before == state_digest(gpt, [adam])
    averages = adam.state[gpt.wte.weight]["exp_avg"]
    for tensor in (gpt.wte.weight.data[0], gpt.cos_T1D[0], gpt.hidden[0], averages[0]):
        tensor += 1e-3
        after = state_digest(gpt, [adam])
        assert sum(before[name] != after[name] for name in before) == 1
        before = after
    gpt.wte.weight.data[[0, 1]] = gpt.wte.weight.data[[1, 0]]
    assert state_digest(gpt, [adam]) != before


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_snapshot_puts_weights_buffers_optimizers_and_random_numbers_back(steps_before):
    """An optimizer that had no state has none again; one that had (of a resumed run) has the same."""
    gpt = small_model()
    adam = torch.optim.Adam(gpt.parameters(), lr=0.1)
    for _ in range(steps_before):
        trained_once(gpt, adam)
    before, state = state_digest(gpt, [adam]), {k: v.clone() for k, v in gpt.state_dict().items()}
    snapshot, drawn = Snapshot(gpt, [adam]), torch.get_rng_state()
    gpt.cos_T1D.add_(1)
    adam.param_groups[0]["lr"] = 0.2
    trained_once(gpt, adam)
    torch.rand(3)
    snapshot.put_back()
    assert state_digest(gpt, [adam]) == before and bool(adam.state) == bool(steps_before)
    assert all(torch.equal(v, state[k]) for k, v in gpt.state_dict().items())
    assert adam.param_groups[0]["lr"] == 0.1 and torch.equal(torch.get_rng_state(), drawn)
    assert all(p.grad is None for p in gpt.parameters())


def test_what_a_snapshot_does_not_know_trips():
    gpt = small_model()
    gpt.seen = torch.zeros(1)
    snapshot = Snapshot(gpt, [])
    gpt.seen += 1
    with pytest.raises(Tripwire, match="warmup: .seen kept what the warm-up did"):
        snapshot.put_back()


NOTHING = SimpleNamespace(stop=lambda self: None, checks=lambda logits, batch, seq_len: logits)
REPLACED = {
    "an alias": (harness.validate, "_cross_entropy", print, "harness.validate._cross_entropy was replaced"),
    "what it stands for": (torch.nn.functional, "cross_entropy", print, "_cross_entropy was replaced"),
    "an imported function": (harness.validate, "check_causality", print, "validate.check_causality was"),
    "an imported module": (harness.clock, "dist", harness, "harness.clock.dist was replaced"),
    "a constant": (harness.tripwires, "CAUSALITY_TOLERANCE", {"float32": 9.0}, "CAUSALITY_TOLERANCE was"),
    "a class": (harness.clock, "Clock", SimpleNamespace, "harness.clock.Clock"),
    "a method": (harness.clock.Clock, "stop", NOTHING.stop, "Clock.stop does not do what its source says"),
    "code": (harness.validate.checked_logits, "__code__", NOTHING.checks.__code__, "validate.checked_logits"),
}


@pytest.mark.parametrize("what", REPLACED)
@pytest.mark.parametrize("opened", ["before", "after"])
def test_the_watch_finds_a_piece_of_the_harness_replaced_before_or_after_the_run_was_opened(
        monkeypatch, what, opened):
    """It used to be made when the harness was imported, which took 56 ms of every import."""
    modules = [harness.validate, harness.clock, harness.tripwires]
    holder, name, value, words = REPLACED[what]
    watch = HarnessWatch(modules)
    if opened == "before":
        watch.check()
    monkeypatch.setattr(holder, name, value)
    if opened == "before":
        watch = HarnessWatch(modules)
    if (what, opened) == ("what it stands for", "after"):
        return watch.check()  # the harness holds its own
    with pytest.raises(Tripwire, match=words):
        watch.check()
    monkeypatch.undo()
    return HarnessWatch(modules).check()
