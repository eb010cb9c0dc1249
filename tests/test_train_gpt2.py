"""The submission: Muon against its oracles, the model against the reference recipe's facts."""
import math
import re

import numpy as np
import pytest
import torch
from shipped import shipped
from tiny import ROOT

from harness.parameters import check_optimizers
from harness.track import load_tracks

script = shipped()
GPT, RECIPES, Hyperparameters, Muon = script.GPT, script.RECIPES, script.Hyperparameters, script.Muon
TINY = dict(vocab_size=257, n_layer=2, n_head=2, n_embd=32, seq_len=16)


def reference_update(momentum, grad, buffer, steps=5):
    """Muon of one matrix in float64, as published: returns update and new buffer."""
    buffer = momentum * buffer + grad
    X = grad + momentum * buffer
    transposed = X.shape[0] > X.shape[1]
    X = X.T if transposed else X
    X = X / (np.linalg.norm(X) + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    X = X.T if transposed else X
    return X * max(1, X.shape[0] / X.shape[1]) ** 0.5, buffer


def matrices(n=7, seed=0, width=24):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(width, width), (4 * width, width), (width, 4 * width)]
    return [torch.nn.Parameter(torch.randn(shapes[i % 3], generator=generator)) for i in range(n)]


def take_muon_steps(params, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach().numpy().copy() for p in params]


def test_muon_equals_a_float64_reference(alone):
    params = matrices()
    expected = [p.detach().double().numpy().copy() for p in params]
    buffers, generator = [0.0] * len(params), torch.Generator().manual_seed(1)
    for _ in range(3):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=generator).double().numpy()
            update, buffers[i] = reference_update(0.95, grad, buffers[i])
            expected[i] -= 0.02 * update
    found = take_muon_steps(params, Muon(params, lr=0.02, momentum=0.95, dtype=torch.float32))
    for a, b in zip(found, expected):  # three updates of size 0.02 in float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_muon_is_torchs_muon_up_to_bfloat16(alone):
    """torch.optim.Muon always rounds to bfloat16, in another order of operations: 3 % of the update."""
    ours, theirs = matrices(width=128), matrices(width=128)
    start = [p.detach().numpy().copy() for p in ours]
    take_muon_steps(ours, Muon(ours, lr=0.02, momentum=0.95, dtype=torch.bfloat16), steps=1)
    torchs = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0, nesterov=True)
    take_muon_steps(theirs, torchs, steps=1)
    for a, b, c in zip(ours, theirs, start):
        difference = np.linalg.norm(a.detach().numpy() - b.detach().numpy())
        assert difference < 0.03 * np.linalg.norm(b.detach().numpy() - c)


@pytest.mark.parametrize("world_size, n", [(2, 7), (3, 7), (4, 7), (4, 2)])  # and more ranks than matrices
def test_muon_sharded_over_ranks_equals_muon_on_one_to_the_last_bit(ranks, world_size, n):
    def sharded():
        params = matrices(n)
        optimizer = Muon(params, lr=0.02, momentum=0.95, dtype=torch.float32)
        return take_muon_steps(params, optimizer), len(optimizer.state)

    [(single, _)] = ranks(1, sharded)
    answers = ranks(world_size, sharded)
    assert sum(held for _, held in answers) == len(single), "each momentum lives on exactly one rank"
    assert max(held for _, held in answers) == -(-len(single) // world_size), "and they are dealt evenly"
    for found, _ in answers:
        assert all(np.array_equal(a, b) for a, b in zip(found, single))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (32, 128)])
def test_newton_schulz_sends_singular_values_near_one(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    U, _, V = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    spectrum = torch.linspace(1, 0.1, min(shape))  # condition number 10
    values = torch.linalg.svdvals(script.newton_schulz((U * spectrum @ V).to(dtype)[None]).float())
    assert 0.6 < values.min() and values.max() < 1.2


def plain_newton_schulz(G):
    """Five steps as published, each on the whole matrix."""
    X = G / (G.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315), X, beta=3.4445)
    return X


@pytest.mark.parametrize("shape", [(64, 64), (48, 64), (64, 256), (520, 520), (520, 1040)])  # and in bands
@pytest.mark.parametrize("decades", [0, 6])
def test_newton_schulz_on_small_squares_is_the_published_one_up_to_rounding(shape, decades):
    """Singular values over six decades are the hard case: the small ones drown beside the largest squared."""
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    if decades:
        U, _, V = torch.linalg.svd(G, full_matrices=False)
        G = U * torch.logspace(0, -decades, min(shape), dtype=torch.float64) @ V
    exact = plain_newton_schulz(G)

    def off(X):
        return float((X.double() - exact).norm() / exact.norm())

    assert off(script.newton_schulz(G)) < 1e-11  # 1e-14, or 6e-13 over six decades
    assert off(script.newton_schulz(G.float())) < (5e-4 if decades else 1e-5)  # 2e-4, 5e-6
    if min(shape) < 512:  # bfloat16 rounds a wide one's factors too: 0.03 for 0.013; else 0.13 for 0.15
        published = off(plain_newton_schulz(G.bfloat16()))
        assert off(script.newton_schulz(G.bfloat16())) < max(0.05, 1.2 * published)


def test_muon_refuses_what_is_no_matrix(alone):
    with pytest.raises(ValueError, match="Muon takes matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_the_fineweb_recipe_has_the_references_parameter_counts():
    """facts of the record of 2024-11-03: 162,201,600 stored, 123,568,128 active."""
    with torch.device("meta"):
        model = GPT(RECIPES["fineweb"])
    total = sum(p.numel() for p in model.parameters())
    assert total == 162_201_600
    assert total - model.wte.weight.numel() == 123_568_128
    assert sum(p.numel() for p in model.blocks.parameters()) == 84_934_656


@pytest.mark.parametrize("name, active, embedding", [
    ("fineweb_350m", 353_501_184, 51_511_296), ("fineweb_1_5b", 1_549_467_648, 77_266_944)])
def test_the_larger_recipes_fit_their_tracks_and_the_tokens_there_are(name, active, embedding):
    with torch.device("meta"):
        model = GPT(RECIPES[name])
    assert sum(p.numel() for p in model.parameters()) == active + embedding
    hp, track = RECIPES[name], load_tracks()[name]
    assert track.recipe == name and active <= track.max_active_parameters
    shards = int(track.fetch.rsplit(" ", 1)[1])  # of 100 M tokens; the last of the 103 has 55.3 M
    assert hp.num_iterations * hp.batch_tokens < min(shards * 100_000_000, 10_255_324_043)
    assert hp.n_embd // hp.n_head == 128 and hp.batch_tokens % (8 * hp.micro_batch * hp.seq_len) == 0


def memory_gib(hp, ranks):
    """Return GiB of weights and gradients, optimizers, a micro-batch, and all, as docs/recipe.md has them."""
    blocks, V = 12 * hp.n_layer * hp.n_embd**2, hp.vocab_size
    tables = 2 * V * hp.n_embd
    parts = (8 * (blocks + tables) + 2 * (blocks + tables // 2),  # float32 twice, bfloat16 for products
             4 * blocks / ranks + 8 * tables,  # Muon's momentum is dealt to the ranks, Adam's two are not
             hp.micro_batch * hp.seq_len * (40 * hp.n_layer * hp.n_embd + 6 * V))
    return [part / 2**30 for part in (*parts, sum(parts))]


def test_the_page_shows_the_memory_of_the_large_recipes_as_counted():
    page = (ROOT / "docs" / "recipe.md").read_text()
    for name in ("fineweb", "fineweb_350m", "fineweb_1_5b"):
        one, eight = memory_gib(RECIPES[name], 1), memory_gib(RECIPES[name], 8)
        row = [*(f"{gib:.1f}" for gib in one[::2]), *(f"{a:.1f}, {b:.1f}" for a, b in zip(one, eight))]
        assert f"| `{name}` | {row[0]} | {row[3]} | {row[1]} | {row[5]} |" in page


def test_the_first_loss_is_the_logarithm_of_the_vocabulary():
    torch.manual_seed(0)
    model, x = GPT(Hyperparameters(**{**TINY, "vocab_size": 50304})), torch.randint(50257, (2, 16))
    assert abs(script.loss_sum(model(x), x).item() / x.numel() - math.log(50304)) < 1e-5
    assert f"{math.log(50304):.4f}" == "10.8258"


def test_the_schedule_is_the_references_trapezoid():
    factors = [script.lr_factor(step, RECIPES["fineweb"]) for step in (0, 3269, 3270, 3271, 4577)]
    assert factors == [1, 1, 1, 1307 / 1308, 1 / 1308]


def test_rotary_turns_by_minus_theta_and_keeps_relative_positions():
    """The score of a query and a key depends on their distance alone."""
    torch.manual_seed(0)
    model = GPT(Hyperparameters(**TINY, dtype="float32"))
    q, k = (torch.randn(1, 1, 1, 16).expand(1, 16, 1, 16) for _ in range(2))
    q, k = (script.rotate(x, model.cos_T1D, model.sin_T1D)[0, :, 0] for x in (q, k))
    scores = q @ k.T
    for offset in range(-15, 16):
        diagonal = scores.diagonal(offset)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4
    angle = 1.0  # position 1, first frequency
    x = torch.zeros(1, 16, 1, 16)
    x[0, 1, 0, 0] = 1
    turned = script.rotate(x, model.cos_T1D, model.sin_T1D)[0, 1, 0]
    assert abs(float(turned[0]) - math.cos(angle)) < 1e-6 and abs(float(turned[8]) + math.sin(angle)) < 1e-6


def test_logits_do_not_see_later_tokens():
    torch.manual_seed(0)
    model = GPT(Hyperparameters(**TINY, dtype="float32"))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randint(257, (1, 16))
    y = x.clone()
    y[0, 8:] = torch.randint(257, (8,))
    assert torch.equal(model(x)[0, :8], model(y)[0, :8])


def test_every_parameter_is_trained_by_exactly_one_optimizer(alone):
    model = GPT(Hyperparameters(**TINY))
    adam, muon = script.build_optimizers(model, Hyperparameters(**TINY))
    check_optimizers(model, [adam, muon])
    with pytest.raises(ValueError, match="parameter wte.weight is in 0 optimizer groups"):
        check_optimizers(model, [muon])
    with pytest.raises(ValueError, match=r"blocks.0.attn.c_q.weight is in 2"):
        check_optimizers(model, [adam, muon, torch.optim.SGD(model.blocks.parameters())])


def test_the_sizes_of_recipes_divide():
    for hp in RECIPES.values():
        assert hp.n_embd % hp.n_head == hp.batch_tokens % (hp.micro_batch * hp.seq_len) == 0


def test_every_hyperparameter_is_used():
    """No dead options in the submission."""
    source = "".join(path.read_text() for path in (ROOT / "train_gpt2.py", *(ROOT / "harness").glob("*.py")))
    used = [name for name in Hyperparameters.__dataclass_fields__
            if re.search(rf"hp\.{name}\b|hp, \"{name}\"|\"{name}\", ", source)]
    assert used == list(Hyperparameters.__dataclass_fields__)


def test_every_setting_of_the_optimizers_is_the_recipes(alone):
    """Values that no recipe has: a constant in their place would leave every curve as it is."""
    hp = Hyperparameters(**TINY, embed_lr=0.11, head_lr=0.12, adam_betas=(0.13, 0.14), muon_lr=0.15,
                         muon_momentum=0.16, newton_schulz_dtype="float64")
    adam, muon = script.build_optimizers(GPT(hp), hp)
    assert [(group["lr"], group["betas"]) for group in adam.param_groups] == [
        (0.11, (0.13, 0.14)), (0.12, (0.13, 0.14))]
    [group] = muon.param_groups
    assert (group["lr"], group["momentum"], group["dtype"]) == (0.15, 0.16, torch.float64)
