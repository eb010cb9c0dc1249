"""Gradients over ranks: exact ones have the same bits at every world size, fast ones differ by rounding."""
import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny import HP, submission

from harness.reduce import ExactReducer, FastReducer

ROWS = 16  # sequences of a step


def train(reducer_class, rows, dtype, steps):
    """Return losses and all weights after steps of the submission's optimizers, rows sequences a pass."""
    torch.manual_seed(0)
    script, generator, losses = submission(), torch.Generator().manual_seed(1), []
    hp = script.Hyperparameters(**{**HP, "dtype": dtype, "newton_schulz_dtype": "float32"})
    model = script.GPT(hp)
    optimizers, reducer = script.build_optimizers(model, hp), reducer_class(model, model)
    for _ in range(steps):
        tokens = torch.randint(3, (ROWS, 17), generator=generator).cumsum(1)  # learnable
        mine = tokens.chunk(dist.get_world_size())[dist.get_rank()]
        passes = list(zip(mine[:, :-1].split(rows), mine[:, 1:].split(rows)))
        losses.append(float(reducer(lambda net, a, b: script.loss_sum(net(a), b), passes, ROWS * 16)))
        for optimizer in optimizers:
            optimizer.step()
    return losses, np.concatenate([p.detach().flatten().numpy() for p in model.parameters()])


def bfloat16_works() -> bool:
    try:
        return bool(torch.isfinite(torch.ones(4, 4).bfloat16() @ torch.ones(4, 4).bfloat16()).all())
    except RuntimeError:
        return False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exact_reduction_gives_the_same_bits_on_1_2_and_4_ranks(ranks, dtype):
    """20 steps; one weight that differs in one bit fails."""
    if dtype == "bfloat16" and not bfloat16_works():
        pytest.skip("this CPU build of torch multiplies no bfloat16 matrices")
    [(losses, weights)] = ranks(1, train, ExactReducer, 2, dtype, 20)
    assert losses[-1] < losses[0]
    for world_size in (2, 4):
        for other_losses, other_weights in ranks(world_size, train, ExactReducer, 2, dtype, 20):
            assert other_losses == losses
            assert np.array_equal(other_weights.view(np.int32), weights.view(np.int32))


def test_fast_reduction_is_the_same_up_to_rounding_at_any_world_size_and_device_batch(ranks):
    """float32 sums of 256 terms in another order: 1e-5 on losses near 5 is a hundred roundings.

    It is 1e-7 a gradient, which 20 steps of Newton-Schulz may raise tenfold or so.
    """
    [(losses, _)] = ranks(1, train, ExactReducer, 2, "float32", 20)
    for world_size, rows in ((1, 16), (1, 4), (2, 8), (2, 2), (4, 4)):
        for other, _ in ranks(world_size, train, FastReducer, rows, "float32", 20):
            assert np.abs(np.array(other) - losses).max() < 1e-5


@pytest.mark.parametrize("reducer_class", [ExactReducer, FastReducer])
def test_the_gradient_is_the_mean_over_all_tokens_of_all_ranks(ranks, reducer_class):
    """Against autograd over the whole batch in one pass, float64."""
    def gradients():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 5, bias=False)
        x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 5
        passes = list(zip(x.split(2), y.split(2)))[2 * dist.get_rank():][:2]
        loss = reducer_class(model, model)(lambda net, a, b: torch.nn.functional.cross_entropy(
            net(a), b, reduction="sum"), passes, 8)
        whole = torch.nn.Linear(3, 5, bias=False, dtype=torch.float64)
        whole.weight.data = model.weight.data.double()
        expected = torch.nn.functional.cross_entropy(whole(x.double()), y)
        expected.backward()
        return (float(loss - expected.detach()), (model.weight.grad - whole.weight.grad).abs().max().item())

    for loss_error, gradient_error in ranks(2, gradients):
        assert abs(loss_error) < 1e-6 and gradient_error < 1e-6


def test_exact_reduction_refuses_parameters_that_are_not_float32(alone):
    model = torch.nn.Linear(2, 2).bfloat16()
    with pytest.raises(ValueError, match="exact reduction takes float32 parameters"):
        ExactReducer(model, model)
