"""The frontier submission: its softmax and its attention against oracles in float64; its graphs."""
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_frontier import FINEWEB, SMALL, loss_of, model_of, numbers

from submissions import frontier as script


def reference_loss(gpt, x, y, mtp):
    """The weighted cross-entropy of the next tokens over the whole vocabulary, by torch."""
    logits, total = gpt(x).double(), 0.0
    for ahead, weight in enumerate(mtp):
        kept = logits[:, :y.size(1) - ahead].flatten(0, 1)
        total = total + weight * F.cross_entropy(kept, y[:, ahead:].flatten(), reduction="sum")
    return total


@pytest.mark.parametrize("candidates", [None, 300, 4000])
def test_the_loss_over_all_candidates_is_the_whole_softmaxs_and_so_are_its_gradients(candidates):
    hp = dataclasses.replace(SMALL, stage_candidates=(candidates,), batch_stages=(), stage_lr=(1.0,),
                             stage_windows=(None, None), stage_max_doc=(None, None),
                             stage_mtp=(((1, 1), (.5, .5), (.25, 0)),))
    gpt, tokens = model_of(hp), torch.randint(300, (2, 33), generator=torch.Generator().manual_seed(1))
    x, y = tokens[:, :-1], tokens[:, 1:]
    expected, found = reference_loss(gpt, x, y, (1, .5, .25)), loss_of(gpt, x, y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for name in ("lm_head", "embed"):
        p = gpt.get_parameter(f"{name}.weight")
        a, b = (torch.autograd.grad(loss, p, retain_graph=True)[0] for loss in (expected, found))
        assert (a - b).norm() < 2e-5 * a.norm()


def test_the_sampled_partition_sum_is_unbiased_and_knows_each_target():
    V, K, draws = 60, 24, 4000
    y, W = torch.tensor([[3, 3, 17, -1, 58, 0]]).expand(draws, -1), numbers(V).double()
    noise = torch.rand(draws, V, generator=torch.Generator().manual_seed(0))
    ids, column, correction = script.sample(y, noise, K)
    assert all(len(set(row.tolist())) == K for row in ids[:50])
    kept = y >= 0
    assert torch.equal(ids.gather(1, column)[kept], y[kept])
    sums = (W[ids] + correction).exp().sum(1)
    error = sums.std() / draws ** 0.5
    assert error < 0.01 * sums.mean() and abs(sums.mean() - W.exp().sum()) < 3 * error


def test_more_targets_than_candidates_give_no_silent_number():
    y, noise = torch.arange(12)[None], torch.rand(1, 60)
    assert script.sample(y, noise, 12)[2].isnan().any() and not script.sample(y, noise, 13)[2].isnan().any()
    gpt = model_of(dataclasses.replace(SMALL, stage_candidates=(20,) * 4))
    x = torch.randint(300, (1, 64))
    assert loss_of(gpt, x, x).isnan()


def reference_attention(q, k, v, start, window):
    """Each token of each head by itself in float64: its document's tokens from `window` before it on."""
    B, T, H, _ = q.shape
    out = torch.zeros_like(v, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            first = max([s for s in range(t + 1) if start[b, s]] + [t - window])
            for h in range(H):
                p = (k[b, first:t + 1, h].double() @ q[b, t, h].double()).softmax(0)
                out[b, t, h] = p @ v[b, first:t + 1, h].double()
    return out


def varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """What torch.nn.attention.varlen.varlen_attn is documented to do, on a CPU."""
    out, borders = torch.zeros_like(v), cu_q.tolist()
    assert borders[0] == 0 and borders[-1] == len(q) and cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k)
    for a, b in zip(borders, borders[1:]):
        assert b - a <= max_q == max_k
        start = (torch.arange(b - a) == 0)[None]
        if b > a:
            qs, ks, vs = (x[None, a:b] for x in (q * scale, k, v))
            out[a:b] = reference_attention(qs, ks, vs, start, window_size[0])[0]
    return out


@pytest.mark.parametrize("varlen", [None, varlen_attn])
def test_attention_stays_within_documents_and_windows(varlen):
    q, k, v = (numbers(2, 256, 3, 8, seed=i) for i in range(3))
    start = torch.zeros(2, 256, dtype=torch.bool)
    start[:, 0] = start[0, 170] = start[1, 60] = True
    found = script.attend(q, k, v, start, 9, 256, varlen)
    np.testing.assert_allclose(found, reference_attention(q, k, v, start, 9), rtol=0, atol=1e-6)


def test_on_a_gpu_too_many_documents_give_no_silent_number():
    q = numbers(1, 256, 1, 4)
    start = torch.arange(256)[None] % 64 == 0
    attn = lambda q, *_, **__: q  # noqa: E731
    assert script.attend(q, q, q, start, 9, 256, attn).isnan().all()


def test_documents_are_split_and_see_nothing_of_each_other(monkeypatch):
    """Without what crosses their borders by design: smear, pairs, key offset."""
    hp = dataclasses.replace(SMALL, smear=False, pair_rows=0, long_layers=())
    gpt, x = model_of(hp), torch.randint(200, (1, 64))
    x[0, 20] = hp.end_of_text  # behind it a split each 24 tokens: at 0, 20, 44
    y, seen = x.clone(), []
    y[0, :20] = torch.randint(200, (20,))
    attend = script.attend
    monkeypatch.setattr(script, "attend", lambda *a: seen.append(a[3]) or attend(*a))
    a, b = (gpt.trunk(tokens, (start, (8, 16), 24)) for tokens in (x, y)
            for start in [(torch.arange(64) % 64 == 0) | (torch.arange(64) == 20) | (torch.arange(64) == 44)]
            for start in [start[None]])
    assert torch.equal(a[:, 20:], b[:, 20:]) and not torch.equal(a[:, 19], b[:, 19])
    seen.clear()
    loss_of(gpt, x, x)
    assert all(start.view(1, 64, -1)[..., 0].nonzero()[:, 1].tolist() == [0, 20, 44] for start in seen)
    seen.clear()
    gpt(x)
    assert seen[1].nonzero()[:, 1].tolist() == [0, 20]


def test_yarn_stretches_what_turns_rarely_and_raises_the_scale():
    """float64, by the formula; the public speedrun's scales are .1, .1169, .1275, .1318."""
    windows = [long for _, long in FINEWEB.stage_windows[:-1]]
    frequencies, scales = script.yarn(windows, 32)
    f, scale = np.array([1024 ** -(i / 31) for i in range(32)]), 0.1
    for i, (old, new) in enumerate(zip(windows, windows[1:]), start=1):
        turns, s = old * f / (2 * math.pi), old / new
        f, scale = f * (s + (1 - s) * np.clip((turns - 1) / 31, 0, 1)), scale * (1 - 0.2 * math.log(s))
        np.testing.assert_allclose(frequencies[i], f, rtol=1e-6)
        assert float(scales[i]) == pytest.approx(scale)
    assert [round(float(x), 4) for x in scales] == [.1, .1169, .1275, .1318]


@pytest.mark.parametrize("layer", [0, 1, 10])  # paired heads; XSA and values; key offset, gates and values
def test_a_layers_attention_is_its_oracles(layer):
    """Projections, values' table, RoPE, pairs, key offset, XSA and gates of heads, written once more."""
    hp, T, H, D, C = SMALL, 12, 6, 8, 48
    gpt, u = model_of(hp).double(), numbers(1, T, C).double()
    table = numbers(1, T, C, seed=1).double() if layer in hp.value_layers else None
    g = {f"{name} {layer}": numbers(1, T, H, seed=2).double() for name in ("xsa", "head")}
    start = (torch.arange(T) % 7 == 0)[None]
    found = gpt.attention(layer, u, table, (start, (4, 5), 7), g)[0]
    a = gpt.attn_layers.index(layer)
    Q, K = gpt.qk.view(-1, 2, C, C)[a]
    q, k, v = (F.linear(u[0], W).view(T, H, D) for W in (Q, K, gpt.vo[2 * a] * gpt.scalars[2 + a]))
    q, k = (x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() for x in (q, k))
    if table is not None:
        few = torch.cat((u[0, :, :6], table[0, :, :6]), -1)
        gate = 2 * (few @ gpt.value_gate[hp.value_layers.index(layer)].T).sigmoid()
        v = v + gate[..., None] * table[0].view(T, H, D)
    lane = (lambda h: h // 3) if layer in hp.paired_layers else (lambda h: 0)
    lanes = 2 if layer in hp.paired_layers else 1
    place = lambda t, h: t * lanes + lane(h)  # noqa: E731
    f = gpt.frequency[0]

    def turned(x):
        out = x.clone()
        for t in range(T):
            for h in range(H):
                for i in range(D // 4):
                    angle, j = place(t, h) * f[i], i + D // 4
                    out[t, h, i] = x[t, h, i] * angle.cos() + x[t, h, j] * angle.sin()
                    out[t, h, j] = x[t, h, j] * angle.cos() - x[t, h, i] * angle.sin()
        return out

    q, k, window = turned(q), turned(k), 5 if layer in hp.long_layers else 4
    if layer in hp.long_layers:
        k[1:, :, D // 2:] = k[:-1, :, D // 2:].clone()
    y = torch.zeros_like(v)
    for h in range(H):
        mates = [j for j in range(H) if j % (H // lanes) == h % (H // lanes)]
        for t in range(T):
            seen = [(s, j) for s in range(T) for j in mates if s // 7 == t // 7
                    and 0 <= place(t, h) - place(s, j) <= window]
            p = torch.stack([0.1 * q[t, h] @ k[s, j] for s, j in seen]).softmax(0)
            y[t, h] = sum(w * v[s, j] for w, (s, j) in zip(p, seen))
    if layer in hp.xsa_layers:
        along = (y * v).sum(-1) / (v * v).sum(-1)
        y = y - (g[f"xsa {layer}"][0].tanh() * along)[..., None] * v
    if layer in hp.long_layers:
        y = y * g[f"head {layer}"][0][..., None]
    expected = F.linear(y.flatten(1), gpt.vo[2 * a + 1])
    # angles and scale are float32, a rounding of 6e-8 in products of some hundred
    atol = 1e-5 * expected.abs().max().item()
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=0, atol=atol)


def test_logits_do_not_see_later_tokens():
    gpt, x = model_of(SMALL), torch.randint(300, (2, 64))
    y = x.clone()
    y[0, 40:] = torch.randint(300, (24,))
    before, after = gpt(x), gpt(y)
    assert torch.equal(before[0, :40], after[0, :40]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[0, 40], after[0, 40])


OFF = [
    dict(softcap=None), dict(lambdas=False, smear=False, skip=None, cache_layer=None), dict(again=False),
    dict(rotary=1.0, long_layers=()), dict(value_layers=(), cache_layer=None), dict(long_layers=()),
    dict(paired_layers=()), dict(xsa_layers=()), dict(cache_layer=None), dict(smear=False),
    dict(gate_hidden=0), dict(pair_rows=0), dict(pair_signs=0), dict(stage_candidates=(None,) * 4),
    dict(stage_windows=(None,) * 5), dict(stage_mtp=(((1, 1),),) * 4)]


@pytest.mark.parametrize("off", OFF, ids=lambda off: next(iter(off)))
def test_each_technique_is_off_by_a_value_and_changes_the_loss_where_it_is_on(off):
    losses, x = [], torch.randint(300, (2, 65), generator=torch.Generator().manual_seed(1))
    for hp in (SMALL, dataclasses.replace(SMALL, **off)):
        gpt = model_of(hp)
        loss = loss_of(gpt, x[:, :-1], x[:, 1:])
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in gpt.parameters())
        losses.append(loss.item())
    assert math.isfinite(losses[1]) and losses[0] != losses[1]


FEW = dataclasses.replace(
    SMALL, n_layer=4, value_layers=(1, 3), long_layers=(3,), paired_layers=(0,), xsa_layers=(1,), skip=(0, 2),
    cache_layer=1, gate_layers=(0, 2, 4))  # all of it, so that torch compiles it in a minute


def graphs(hp, backend):
    """Return how many graphs the model has behind its warm-up, and behind another step of each stage."""
    gpt, counts = model_of(hp), []
    net = torch.compile(gpt, backend=backend, dynamic=False, fullgraph=True)
    x = torch.randint(300, (2, 65))
    for borders in ([0, 423, 847, 1270], [1, 500, 900, 1284]):
        for step in borders:
            now = hp.at(step)
            gpt.train()
            gpt.stage.fill_(now.stage)
            net(x[:, :-1], x[:, 1:], torch.tensor(now.mtp), torch.rand(2, 300), now.stage).backward()
            gpt.eval()
            with torch.no_grad():
                net(x[:, :-1])
        counts.append(backend.frame_count)
    return counts


@pytest.mark.slow
def test_the_model_is_one_graph_a_stage_and_one_for_validation_and_none_comes_after_the_warm_up():
    torch.compiler.reset()
    from torch._dynamo.testing import CompileCounter
    assert graphs(FEW, CompileCounter()) == [5, 5]


@pytest.mark.slow
def test_the_compiled_model_is_the_eager_one_to_rounding():
    torch.compiler.reset()
    gpt, x = model_of(FEW), torch.randint(300, (2, 65))
    net = torch.compile(gpt, dynamic=False, fullgraph=True)
    losses = [loss_of(each, x[:, :-1], x[:, 1:]) for each in (gpt, net)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    a, b = (torch.autograd.grad(loss, gpt.mlp)[0] for loss in losses)
    assert (a - b).norm() < 1e-3 * a.norm()
