"""Gradients over ranks: exact ones have the same bits at every world size, fast ones differ by rounding."""
import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny import HP, submission

from harness.endings import BadInput
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
        losses.append(float(reducer(lambda net, a, b: script.loss_sum(net(a), b), passes)))
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
            net(a), b, reduction="sum"), passes)
        whole = torch.nn.Linear(3, 5, bias=False, dtype=torch.float64)
        whole.weight.data = model.weight.data.double()
        expected = torch.nn.functional.cross_entropy(whole(x.double()), y)
        expected.backward()
        return (float(loss - expected.detach()), (model.weight.grad - whole.weight.grad).abs().max().item())

    for loss_error, gradient_error in ranks(2, gradients):
        assert abs(loss_error) < 1e-6 and gradient_error < 1e-6


def test_exact_reduction_refuses_parameters_that_are_not_float32(alone):
    model = torch.nn.Linear(2, 2).bfloat16()
    with pytest.raises(BadInput, match="exact reduction takes float32 parameters"):
        ExactReducer(model, model)


@pytest.mark.parametrize("reducer_class", [ExactReducer, FastReducer])
@pytest.mark.parametrize("world_size", [1, 2])
def test_where_only_some_tokens_count_the_mean_is_over_those_of_all_ranks(ranks, reducer_class, world_size):
    """Ranks count 1 and 6 of their 8; the count rides with the gradients: nothing else is sent."""
    def gradients():
        torch.manual_seed(0)
        model, rank = torch.nn.Linear(3, 5, bias=False), dist.get_rank()
        x, y = torch.randn(16, 3), torch.arange(16) % 5
        counts = torch.tensor([0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1])

        def loss_sum(net, x, part):
            return (torch.nn.functional.cross_entropy(net(x), y[part], reduction="none") * counts[part]).sum()

        mine = torch.arange(16).chunk(dist.get_world_size())[rank]
        reducer = reducer_class(model, model)
        dist.all_reduce = None
        loss = reducer(loss_sum, [(x[part], part) for part in mine.split(2)], int(counts[mine].sum()))
        whole = torch.nn.Linear(3, 5, bias=False, dtype=torch.float64)
        whole.weight.data = model.weight.data.double()
        expected = loss_sum(whole, x.double(), torch.arange(16)) / 7
        expected.backward()
        return (float(loss - expected.detach()), (model.weight.grad - whole.weight.grad).abs().max().item())

    for loss_error, gradient_error in ranks(world_size, gradients):
        assert abs(loss_error) < 1e-6 and gradient_error < 1e-6


@pytest.mark.parametrize("reducer_class", [ExactReducer, FastReducer])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_rank_that_does_not_reduce_waits_for_none_and_has_its_part_of_the_mean(ranks, reducer_class,
                                                                                 world_size):
    """Only the last rank asks for its part; the parts of both are those of two ranks of one."""
    def part(x, reduce):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 5, bias=False)
        reducer = reducer_class(model, model)
        if dist.get_rank() and not reduce:
            return None
        loss = reducer(lambda net, a, b: net(a).square().sum(), list(zip(x.split(2), x[:, 0].split(2))),
                       reduce=reduce)
        return float(loss), model.weight.grad.numpy().copy()

    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(3))
    [(loss, gradient)] = ranks(1, part, x, True)
    alone_loss, alone = ranks(world_size, part, x, False)[0]
    assert abs(alone_loss - loss) < 1e-5 * loss
    assert np.abs(alone * world_size - gradient).max() < 1e-5 * np.abs(gradient).max()


def test_any_number_of_micro_batches_is_summed_to_the_same_bits_on_1_2_and_4_ranks(ranks):
    """12 and 20: rows of 3 and of 5, then pairs; what each adds in another order is off by rounding."""
    def gradient(n):
        torch.manual_seed(0)
        model, x = torch.nn.Linear(30, 50), torch.randn(n, 30)
        mine = x.chunk(dist.get_world_size())[dist.get_rank()]
        loss = ExactReducer(model, model)(lambda net, a, b: net(a).exp().sum(),
                                          [(row, row[:, 0]) for row in mine.split(1)])
        return float(loss), model.weight.grad.numpy().copy()

    for n in (12, 20):
        [(loss, one)] = ranks(1, gradient, n)
        for world_size in (2, 4):
            for other_loss, other in ranks(world_size, gradient, n):
                assert other_loss == loss and np.array_equal(other.view(np.int32), one.view(np.int32))


def test_no_buffer_and_no_weight_is_sent_to_another_rank(ranks):
    """DistributedDataParallel broadcast rank 0's, at its start and at each step; ranks may differ there."""
    def buffers():
        model = torch.nn.BatchNorm1d(3)
        model.running_mean.fill_(dist.get_rank())
        x = torch.full((4, 3), float(dist.get_rank()))
        reducer = FastReducer(model, model)
        for _ in range(2):
            reducer(lambda net, a, b: net(a).sum(), [(x, x)])
        return model.running_mean.tolist()

    assert ranks(2, buffers) == [[0.0] * 3, [1.0] * 3]
