"""Validation: the right number, the same at every world size; and the tripwires that look at a model."""
import math

import numpy as np
import pytest
import torch
from tiny import submission

from harness.runlog import first_import
from harness.tripwires import HarnessWatch, Tripwire, check_causality, state_digest
from harness.validate import checked_logits, validate, write_text

HP = submission().Hyperparameters(vocab_size=257, n_layer=2, n_head=2, n_embd=32, seq_len=16, dtype="float32")


def model(seed=0, std=0.3):
    torch.manual_seed(seed)
    gpt = submission().GPT(HP)
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=std)
    return gpt


def tokens(n=1025):
    return torch.randint(256, (n,), generator=torch.Generator().manual_seed(3))


def loss_of_model():
    return validate(model(), tokens(), 128, 16)


def test_the_loss_is_the_mean_over_exactly_the_tokens_given(alone):
    """Against float64 over each sequence by itself."""
    gpt, ids = model(), tokens()
    with torch.no_grad():
        logits = torch.cat([gpt(ids[i:i + 16][None])[0] for i in range(0, 1024, 16)]).double()
    expected = torch.nn.functional.cross_entropy(logits, ids[1:]).item()
    assert abs(validate(gpt, ids, 128, 16) - expected) < 1e-6


def test_every_world_size_gives_the_same_bits(ranks):
    [single] = ranks(1, loss_of_model)
    for world_size in (2, 3, 4):
        assert ranks(world_size, loss_of_model) == [single] * world_size


def test_uniform_logits_give_the_logarithm_of_the_vocabulary(alone):
    loss = validate(lambda x: torch.zeros(*x.shape, 257), tokens(), 128, 16)
    assert loss == pytest.approx(math.log(257), abs=1e-6)


def test_a_loss_that_is_not_finite_is_a_nan_on_every_rank(ranks):
    def broken():
        ids = tokens()

        def logits_of(x):
            return torch.full((*x.shape, 257), math.nan if x[0, 0] == ids[0] else 0.0)

        return validate(logits_of, ids, 128, 16)

    assert all(math.isnan(loss) for loss in ranks(2, broken))


def test_logits_of_another_shape_are_told():
    with pytest.raises(ValueError, match=r"returned \(2, 3\), expected logits of shape \(2, 3, vocabulary\)"):
        checked_logits(torch.zeros(2, 3), 2, 3)
    with pytest.raises(ValueError, match="returned tuple"):
        checked_logits((torch.zeros(2, 3, 4), None), 2, 3)


def looks_ahead(x):
    """Logits that say which token comes next in the sequence."""
    logits = torch.zeros(*x.shape, 257)
    logits[:, :-1] = torch.nn.functional.one_hot(x[:, 1:], 257).float() * 0.01
    return logits


def looks_at_the_next_sequence(x):
    logits = torch.zeros(*x.shape, 257)
    logits[:-1, -1] = torch.nn.functional.one_hot(x[1:, 0], 257).float()
    return logits


@pytest.mark.parametrize("cheat", [looks_ahead, looks_at_the_next_sequence])
def test_a_model_that_looks_ahead_trips(cheat):
    """100 draws of one cut.

    A leak over one place shows where the cut is not at a border, one into the next sequence only where it is:
    1 cut in 16.
    """
    generator, tripped = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        try:
            check_causality(cheat, tokens()[:128].view(-1, 16), 256, 1e-3, generator, cuts=1)
        except Tripwire as error:
            assert "causality" in str(error)
            tripped += 1
    assert tripped > (85 if cheat is looks_ahead else 1)


def test_a_causal_model_never_trips():
    generator = torch.Generator().manual_seed(0)
    check_causality(model(), tokens()[:128].view(-1, 16), 256, 1e-5, generator, cuts=50)


def test_the_causality_check_writes_into_no_tensor_of_the_models():
    """It once subtracted in place, in the logits that the model had given it."""
    logits = torch.randn(8, 16, 257)
    kept = logits.clone()
    inputs = tokens()[:128].view(-1, 16)
    check_causality(lambda x: logits, inputs, 256, 1e-3, torch.Generator().manual_seed(0))
    assert torch.equal(logits, kept)


def test_a_changed_weight_buffer_attribute_or_optimizer_state_changes_the_digest():
    gpt = model()
    adam = torch.optim.Adam(gpt.parameters())
    gpt.hidden = [torch.zeros(3)]
    for p in gpt.parameters():
        p.grad = torch.ones_like(p)
    adam.step()
    before = state_digest(gpt, [adam])
    assert before == state_digest(gpt, [adam])
    averages = adam.state[gpt.wte.weight]["exp_avg"]
    for tensor in (gpt.wte.weight.data[0], gpt.cos_T1D[0], gpt.hidden[0], averages[0]):
        tensor += 1e-3
        after = state_digest(gpt, [adam])
        assert sum(before[name] != after[name] for name in before) == 1
        before = after


def test_swapping_two_weights_changes_the_digest():
    gpt = model()
    before = state_digest(gpt, [])
    gpt.wte.weight.data[[0, 1]] = gpt.wte.weight.data[[1, 0]]
    assert state_digest(gpt, []) != before


def test_the_watch_finds_a_replaced_function_a_replaced_method_and_patched_code(monkeypatch):
    import harness.clock
    import harness.validate
    watch = HarnessWatch([harness.validate, harness.clock])
    watch.check()
    with monkeypatch.context() as patch:
        patch.setattr(harness.validate, "_cross_entropy", lambda *args, **kwargs: torch.zeros(1))
        with pytest.raises(Tripwire, match="harness.validate._cross_entropy was replaced"):
            watch.check()
    with monkeypatch.context() as patch:
        patch.setattr(harness.clock.Clock, "stop", lambda self: None)
        with pytest.raises(Tripwire, match="Clock.stop"):
            watch.check()
    with monkeypatch.context() as patch:
        checks_nothing = lambda logits, batch, seq_len: logits  # noqa: E731
        patch.setattr(harness.validate.checked_logits, "__code__", checks_nothing.__code__)
        with pytest.raises(Tripwire, match="checked_logits"):
            watch.check()
    watch.check()


def test_the_first_import_of_a_script_is_found():
    assert first_import(b'"""doc"""\nfrom harness.run import Run\nimport torch\n') == "harness.run"
    assert first_import(b"import torch, harness\n") == "torch"
    assert first_import(b"x = 1\n") == "nothing"


def test_text_is_written_from_the_model_with_the_same_random_numbers_each_time():
    gpt = model()
    with torch.no_grad():
        first = write_text(gpt, 256, 257, 16, torch.device("cpu"), length=12)
        assert first == write_text(gpt, 256, 257, 16, torch.device("cpu"), length=12)
    assert len(first) == 12 and all(0 <= i < 257 for i in first)
    assert np.unique(first).size > 3
