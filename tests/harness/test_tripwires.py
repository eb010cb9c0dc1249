"""Tripwires: what looks ahead or replaces a piece of the harness; the digest that sees every change."""
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny import small_model

import harness.clock
import harness.plan
import harness.tripwires
import harness.validate
from harness.tripwires import HarnessWatch, Tripwire, check_causality, state_digest, tensors_of

INPUTS = torch.randint(256, (8, 16), generator=torch.Generator().manual_seed(3))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def looks_ahead(x):
    """Logits that say which token comes next in the sequence."""
    return F.pad(F.one_hot(x[:, 1:], 257).float() * 0.01, (0, 0, 0, 1))


def looks_at_another_row(x):
    return F.one_hot(x.flip(0, 1), 257).float()


def looks_at_everything(x):
    return F.one_hot(x, 257).float().mean(dim=1, keepdim=True).expand(-1, x.shape[1], -1)


@pytest.mark.parametrize("mistake", [looks_ahead, looks_at_another_row, looks_at_everything])
def test_a_model_that_looks_ahead_trips_at_any_cut(mistake):
    """A mask shifted by one shows at the cut itself, in a row at least where another token follows."""
    generator = seeded()
    for _ in range(50):
        with pytest.raises(Tripwire, match="causality: other tokens from position .* on moved earlier"):
            check_causality(mistake, INPUTS, generator)


def test_a_causal_model_never_trips_nor_one_that_masks_ids_with_infinity():
    gpt, generator = small_model(), seeded()
    for _ in range(30):
        check_causality(gpt, INPUTS, generator)
        check_causality(lambda x: gpt(x).index_fill(2, torch.tensor([3]), -math.inf), INPUTS, generator)
    check_causality(lambda x: torch.ones(*x.shape, 257), INPUTS[:, :1], generator)  # rows of one token


@pytest.mark.parametrize("size", [0.02, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("steps, trips", [(1, False), (4, True)])
def test_a_step_of_bfloat16_at_the_largest_logit_is_rounding_and_four_are_not(size, steps, trips):
    """A limit of 0.1 ended good runs: from 16 on one step of bfloat16 is 0.125 (R3)."""
    logits = torch.full((*INPUTS.shape, 257), size, dtype=torch.bfloat16)
    moved = logits.clone()
    moved.view(torch.int16).add_(steps)
    answers = iter((logits, moved))
    with pytest.raises(Tripwire) if trips else nullcontext():
        check_causality(lambda x: next(answers), INPUTS, seeded())


def test_logits_that_other_tokens_turn_into_nan_trip():
    """A comparison with NaN is false both ways: it must not count as a small change."""
    def logits_of(x):
        return torch.full((*x.shape, 257), 0.0 if torch.equal(x, INPUTS) else math.nan)

    with pytest.raises(Tripwire, match="moved earlier logits by nan"):
        check_causality(logits_of, INPUTS, seeded())


def test_the_causality_check_writes_into_no_tensor_of_the_models():
    """It once subtracted in place, in the logits that the model had given it."""
    logits = torch.randn(8, 16, 257)
    kept = logits.clone()
    check_causality(lambda x: logits, INPUTS, seeded())
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


def test_parameters_come_first_whatever_else_holds_them():
    """Ranks compare them and nothing else: buffers may differ."""
    gpt = small_model()
    gpt.groups = [gpt.lm_head.weight]
    names = [name for name, _ in tensors_of(gpt, [torch.optim.Adam(gpt.parameters())])]
    assert names[:len(list(gpt.parameters()))] == [name for name, _ in gpt.named_parameters()]
    assert len(names) == len(list(gpt.parameters())) + len(list(gpt.buffers()))


REPLACED = {
    "what is imported": (harness.validate, "check_causality", print, "harness.validate.check_causality"),
    "an alias": (harness.clock, "_now_ns", print, "harness.clock._now_ns was replaced"),
    "a constant": (harness.tripwires, "ROUNDING", 9.0, "harness.tripwires.ROUNDING was replaced"),
    "a class": (harness.clock, "Clock", SimpleNamespace, "harness.clock.Clock"),
    "a method": (harness.clock.Clock, "stop", lambda self: None, "Clock.stop does not do what"),
    "code": (harness.plan.parse_flags, "__code__", (lambda argv: {}).__code__, "plan.parse_flags does"),
}


@pytest.mark.parametrize("what", REPLACED)
@pytest.mark.parametrize("opened", ["before", "after"])
def test_the_watch_finds_a_piece_of_the_harness_replaced_before_or_after_the_run_was_opened(
        monkeypatch, what, opened):
    """It used to be made when the harness was imported, which took 56 ms of every import."""
    modules = [harness.validate, harness.clock, harness.tripwires, harness.plan]
    holder, name, value, words = REPLACED[what]
    watch = HarnessWatch(modules)
    if opened == "before":
        watch.check()
    monkeypatch.setattr(holder, name, value)
    if opened == "before":
        watch = HarnessWatch(modules)
    if opened == "before" and what in ("what is imported", "an alias", "a constant"):
        return watch.check()  # code alone is compared with the source
    with pytest.raises(Tripwire, match=words):
        watch.check()
    monkeypatch.undo()
    return HarnessWatch(modules).check()
