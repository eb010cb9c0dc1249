"""Learned optimizers: known answers against loops in float64, and what a run may do to them."""
import math
import shutil

import huggingface_hub
import pytest
import torch
import torch.distributed as dist
from networks import small_fc_weights, velo_weights, write

from harness import checkpoint
from lab.models.build import build_model
from lab.optimizers import optimizer_of, small_fc, velo
from lab.recipe.load import make_recipe
from lab.train import build_optimizers, train_recipe

SHAPES = [(6, 6), (4, 10), (10, 4), (7,), (), (3, 5, 4)]
NAMES = ["g", "p", *(f"m{i}" for i in range(3)), "v", *(f"n{i}" for i in range(3)), "rsqrt",
         *(f"{name}{i}" for name in ("fac_g", "row", "col", "rrow", "rcol", "fac_m") for i in range(3))]
VELO = ["g", "clip", *NAMES[1:13], "norm", *NAMES[13:]]
B, C, FACTORS = (.542027, .958441, .998024), .998886, (.356218, .996626, .999461)  # PyLO's, as measured there
LOSSES = (3.0, 2.0, 40.0)


def made(kind, feature, **changes):
    """Return the optimizer on parameters of SHAPES, whose network shows a feature, and random gradients."""
    draw = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    grads = [[torch.randn(shape, generator=draw) for shape in SHAPES] for _ in LOSSES]
    groups = [{"params": params, "names": list(map(str, SHAPES)), "lr": .5, **changes}]
    if kind == "small_fc":
        tensors = {name: torch.tensor(shifts) for name, shifts in small_fc.SHIFTS.items()}
        return small_fc.SmallFC(groups, tensors | small_fc_weights(feature), "sha"), params, grads
    return velo.VeLO(groups, *velo_weights(feature), "sha", 100), params, grads


def stepped(optimizer, params, grads, losses=LOSSES):
    """Take steps with these gradients; return the parameters."""
    for step, loss in zip(grads, losses):
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step(torch.tensor(loss))
    return [p.detach().clone() for p in params]


def oracle(kind, feature, p, grads, decays, lr=.5):
    """Move a tensor by one normalised feature, in float64: the paper's formulas, a feature at a time."""
    (b, c, f), p, m, v, row, col = decays, p.double(), [0] * 3, 0, [0] * 3, [0] * 3
    axes = sorted(range(p.ndim), key=p.shape.__getitem__)[-2:]  # d1, d0
    if kind == "velo" and p.ndim > 1 and p.shape[axes[0]] == p.shape[axes[1]]:
        axes.reverse()
    for g in grads:
        g, s = g.double(), g.double()**2 + 1e-30
        m, v = [x * d + (1 - d) * g for x, d in zip(m, b)], v * c + (1 - c) * g**2
        over_g, over_m, r = [], [], (v + 1e-6)**-.5
        for i, d in enumerate(f):
            mean_row, mean_col = (s.mean(axes[1], True), s.mean(axes[0], True)) if p.ndim > 1 else (s, s)
            row[i], col[i] = row[i] * d + (1 - d) * mean_row, col[i] * d + (1 - d) * mean_col
            over = (row[i] / (row[i].mean(axes[0], True) + 1e-9) * col[i])**-.5 if p.ndim > 1 else None
            over_g.append((row[i] + 1e-9)**-.5 if over is None else over)
            over_m.append((row[i] + (1e-6 if kind == "small_fc" else 0))**-.5 if over is None else over)
        one, number = feature.rstrip("012"), int(feature[-1]) if feature[-1].isdigit() else 0
        x = {"g": lambda: g, "clip": lambda: g.clamp(-.1, .1), "p": lambda: p, "m": lambda: m[number],
             "v": lambda: v, "n": lambda: m[number] * r, "rsqrt": lambda: r, "norm": lambda: g * r,
             "fac_g": lambda: g * over_g[number], "fac_m": lambda: m[number] * over_m[number],
             "row": lambda: row[number], "col": lambda: col[number],
             "rrow": lambda: (row[number] + 1e-8)**-.5, "rcol": lambda: (col[number] + 1e-8)**-.5}[one]()
        size = .01 if kind == "small_fc" else .001 * (p.square().mean() + 1e-9).sqrt()
        x = x.expand(p.shape)
        p = p - lr * size * x / (1e-5 + x.square().mean()).sqrt()
    return p


@pytest.mark.parametrize("kind, features", [("small_fc", NAMES), ("velo", VELO)])
def test_each_feature_is_that_of_a_loop_in_float64(alone, kind, features):
    """By its place, normalisation and decays, to 1e-5 of the step and the rounding of p in three steps."""
    for place, feature in enumerate(features):
        optimizer, params, grads = made(kind, place, lr=10.0)
        before = [p.detach().clone() for p in params]
        for start, p, *gs in zip(before, stepped(optimizer, params, grads), *grads):
            expected = oracle(kind, feature, start, gs, optimizer.kind[:3], 10.0)
            step = (expected - start.double()).abs().max()
            assert (p - expected).abs().max() < 1e-5 * step + 7e-7 and step > 1e-3, (feature, p.shape)


def test_the_second_output_is_the_logarithm_of_a_step_in_thousandths(alone):
    found = []
    for mag in (0.0, 400.0):
        optimizer, params, grads = made("small_fc", 0)
        optimizer.layers[-1][1][1] = mag
        start = params[0].detach().clone()
        found.append(stepped(optimizer, params, grads[:1])[0] - start)
    assert torch.allclose(found[1], found[0] * math.exp(.4), rtol=1e-3, atol=1e-6)


def test_decays_counts_and_times_are_pylos(alone):
    optimizer, *_ = made("small_fc", 0)
    b, c, factors, *_ = optimizer.kind
    assert [*b, c, *factors] == pytest.approx([*B, C, *FACTORS], abs=5e-7)
    counts = [sum(math.prod(shape) for key, shape in shapes.items() if "decays" not in key)
              for shapes in (small_fc.SHAPES, velo.RNN_SHAPES, velo.MLP_SHAPES)]
    dead = 30 * 512 + 512  # mix_layer1, which upstream never uses
    assert counts == [2402, 2_279_681 - dead, 256 * 159]


@pytest.mark.parametrize("step", [0, 7])
def test_eleven_times_of_the_step_are_shown_behind_the_features(alone, step):
    """The first hidden layer gets them as a part of its bias; at step 0 each is tanh(-1)."""
    optimizer, *_ = made("small_fc", 0)
    first = torch.zeros(32, 39)
    first[:11, 28:] = torch.eye(11)
    optimizer.layers[0] = (first, torch.zeros(32))
    optimizer.param_groups[0]["step"] = step
    (_, bias), *_ = next(iter(optimizer.networks(torch.tensor(1.0)).values()))[0]
    scales = [10**(i // 2) * (1, 3)[i % 2] for i in range(11)]
    assert bias[:11].tolist() == pytest.approx([math.tanh(step / s - 1) for s in scales], abs=1e-6)
    assert step or bias[0].item() == pytest.approx(-.761594, abs=1e-6)


def test_velo_moves_by_the_mlp_of_the_bank_and_the_size_that_its_lstm_says(alone):
    """100 * mean(2.56 e_k * bank) is bank k; any other of the random bank would move otherwise."""
    for bank in (0, 17, 255):
        optimizer, params, grads = made("velo", 3)
        optimizer.rnn, mlp = velo_weights(3, bank, lr_mult=-2.0)
        optimizer.bank = list(mlp.values())
        start = params[0].detach().clone()
        moved = stepped(optimizer, params, grads[:1])[0]
        expected = oracle("velo", "m0", start, [grads[0][0]], ((.9, .99, .999), .999, (.9, .99, .999)), -1.0)
        assert (moved - expected).abs().max() < 2e-7


def test_the_lstm_sees_progress_loss_and_tensor_in_the_order_of_their_names(alone):
    """Each against the formula in float64, after two steps, so that the accumulators are not empty."""
    optimizer, params, grads = made("velo", 0)
    seen = []
    optimizer.linear = lambda name, x: (seen.append(x) if name == "mix_layer2" else None,
                                        velo.VeLO.linear(optimizer, name, x))[1]
    for step in (1, 2):
        before = stepped(optimizer, params, grads[step - 1:step], LOSSES[step - 1:step])
    states = [{k: v.double().clone() for k, v in optimizer.state[p].items()} for p in params]
    stepped(optimizer, params, grads[2:], LOSSES[2:])

    def log(x):
        return min(5, max(-5, math.log(1e-8 + abs(10 * x)))) / 2
    decays = [math.exp(-1 / 10**(1 + i / 9)) for i in range(10)]  # logspace from 10 to the 100 steps
    means, least = [0.0] * 10, [1e12] * 10
    for t, loss in enumerate(LOSSES):
        most = max(mean / (1 - d**(t + 1)) for mean, d in zip(means, decays))
        loss = min(loss, 2 * most) if t else loss
        means = [mean * d + loss * (1 - d) for mean, d in zip(means, decays)]
        now = [mean / (1 - d**(t + 1)) for mean, d in zip(means, decays)]
        least = list(map(min, least, now))
    shown = [max(-1, min(1, (a - low) / max(1e-8, b - low) - 1)) for a, b, low in zip(now, now[1:], least)]
    assert [bool(x[:, 9:18].any()) for x in seen] == [False, False, True], "two steps show no loss"
    for i, (p, state) in enumerate(zip(before, states)):
        scale = max(p.double().square().mean().item(), 1e-9)**-.5
        m, v = state["m"] * scale, state["v"] * scale
        expected = [math.tanh(10 * (.02 - c)) for c in velo.FRACTIONS] + shown + [log(v.mean().item())]
        expected += [float(sum(n > 1 for n in p.shape) == k) for k in range(5)]
        expected += [log(((x - x.mean())**2).mean().item()) for x in m]
        expected += [log(((v - x.mean())**2).mean().item()) for x in m]
        assert seen[2][i].tolist() == pytest.approx(expected, abs=2e-4)


def test_the_lstm_and_the_bank_mix_as_a_loop_in_float64(alone):
    """Random weights: tensors meet in a maximum, gates come as i, g, f, o, and f gets one more."""
    optimizer, params, grads = made("velo", None)
    rnn, bank = ({key: x.double() for key, x in part.items()} for part in velo_weights())
    seen, found, networks = [], [], optimizer.networks
    optimizer.linear = lambda name, x: (seen.append(x.double()) if name == "mix_layer2" else None,
                                        velo.VeLO.linear(optimizer, name, x))[1]
    optimizer.networks = lambda loss: found.append(networks(loss)) or found[-1]
    sizes = [[p.detach().double().square().mean().add(1e-9).sqrt() for p in params]]
    for step in (0, 1):
        sizes.append([p.double().square().mean().add(1e-9).sqrt()
                      for p in stepped(optimizer, params, grads[step:step + 1], LOSSES[step:step + 1])])

    def dense(name, x):
        return rnn[f"{name}.weight"] @ x + rnn[f"{name}.bias"]
    state = {p: (rnn["lstm_init_state.0"][0], rnn["lstm_init_state.1"][0]) for p in params}
    for step in (0, 1):
        best = torch.stack([dense("mix_layer2", x).relu() for x in seen[step]]).amax(0)
        for p, x, rms in zip(params, seen[step], sizes[step]):
            h, c = state[p]
            i, g, f, o = dense("lstm.linear", torch.cat([dense("final_mix_layer", x) + best, h])).chunk(4)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            state[p] = h, _ = torch.sigmoid(o) * torch.tanh(c), c
            layers, scale = found[step][p]
            control = dense("rnn_to_controls", h)
            assert scale.item() == pytest.approx(.001 * dense("step_size", h).item() * rms.item(), rel=1e-3)
            for one, (name, mlps) in zip((part for layer in layers for part in layer), bank.items()):
                mean = sum(100 / 256 * k * mlp for k, mlp in zip(control, mlps))
                assert torch.allclose(one.double(), mean, rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize("kind", ["small_fc", "velo"])
def test_twice_the_rate_is_twice_the_step_and_decay_is_lr_times_weight_decay(alone, kind):
    start = [p.detach().clone() for p in made(kind, None)[1]]
    found = {}
    for name, changes in {"one": {}, "two": {"lr": 1.0}, "decayed": {"weight_decay": .1}}.items():
        optimizer, params, grads = made(kind, None, **changes)
        found[name] = stepped(optimizer, params, grads[:1])
    for p, one, two, decayed in zip(start, *found.values()):
        assert torch.allclose(two - p, 2 * (one - p), rtol=1e-4, atol=3e-7) and not torch.equal(one, p)
        assert torch.allclose(decayed, one * (1 - .5 * .1), rtol=1e-6, atol=0)


@pytest.fixture(params=["highest", "medium"])
def matmul(request):
    """A route of float32 products, taken for one test."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("kind", ["small_fc", "velo"])
def test_a_tensor_cut_into_rows_moves_as_the_whole_bit_for_bit(alone, kind, matmul):
    """On MKL's and on oneDNN's products, of which the harness takes the faster."""
    draw, found = torch.Generator().manual_seed(1), []
    shapes = [(61, 48), (300,), (), (5, 7, 9)]
    grads = [[torch.randn(shape, generator=draw) for shape in shapes] for _ in LOSSES]
    for chunk in (1, 100, 1000, 2**20):
        params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
        optimizer, *_ = made(kind, None)
        optimizer.__init__([{"params": params, "lr": .5}], *(
            [{name: torch.tensor(s) for name, s in small_fc.SHIFTS.items()} | small_fc_weights(), "sha"]
            if kind == "small_fc" else [*velo_weights(), "sha", 100]))
        optimizer.chunk = chunk
        found.append(stepped(optimizer, params, grads))
    assert all(torch.equal(a, b) for other in found[:-1] for a, b in zip(other, found[-1]))


@pytest.mark.parametrize("kind", ["small_fc", "velo"])
def test_gradients_of_zero_and_of_a_million_leave_numbers(alone, kind):
    """And VeLO's are clipped to a thousand first."""
    found = []
    for size, most in ((0.0, math.inf), (1e6, math.inf), (1e6, 1000)):
        optimizer, params, grads = made(kind, None)
        step = [[(size * g).clamp(-most, most) for g in gs] for gs in grads]
        found.append(torch.cat([p.flatten() for p in stepped(optimizer, params, step)]))
        assert found[-1].isfinite().all()
    assert torch.equal(found[1], found[2]) == (kind == "velo")


def everything(kind):
    """Return all parameters after three steps, as numpy, and how many tensors this rank keeps."""
    optimizer, params, grads = made(kind, None)
    return [p.numpy() for p in stepped(optimizer, params, grads)], len(optimizer.state)


@pytest.mark.parametrize("kind", ["small_fc", "velo"])
def test_two_ranks_share_the_tensors_and_move_them_as_one_bit_for_bit(ranks, kind):
    [(alone, kept)] = ranks(1, everything, kind)
    shared = ranks(2, everything, kind)
    assert kept == len(SHAPES) == sum(mine for _, mine in shared) and all(mine for _, mine in shared)
    assert all((a == b).all() for moved, _ in shared for a, b in zip(moved, alone))


def saved(kind, folder):
    """Take all steps but the last, and write a checkpoint."""
    optimizer, params, grads = made(kind, None)
    stepped(optimizer, params, grads[:2], LOSSES[:2])
    checkpoint.save(folder, 2, torch.nn.ParameterList(params), [optimizer], {"taken": 2, "train_time_ns": 1})


def resumed(kind, folder):
    """Take the last step from a checkpoint; return what everything() does."""
    optimizer, params, grads = made(kind, None)
    checkpoint.restore(checkpoint.load(folder / "step000002", 3), torch.nn.ParameterList(params), [optimizer])
    return [p.numpy() for p in stepped(optimizer, params, grads[2:], LOSSES[2:])], len(optimizer.state)


@pytest.mark.parametrize("kind", ["small_fc", "velo"])
def test_a_checkpoint_goes_on_bit_for_bit_at_another_number_of_ranks(ranks, kind, tmp_path):
    """LSTM, means of the loss and number of steps included."""
    [(whole, kept)] = ranks(1, everything, kind)
    for before, after in ((1, 2), (2, 1)):
        ranks(before, saved, kind, folder := tmp_path / f"of{before}")
        found = ranks(after, resumed, kind, folder)
        assert all((a == b).all() for moved, _ in found for a, b in zip(moved, whole))
        assert sum(mine for _, mine in found) == kept


def test_a_checkpoint_of_other_weights_is_refused(alone):
    optimizer, params, grads = made("small_fc", None)
    stepped(optimizer, params, grads[:1])
    state = optimizer.state_dict()
    optimizer.sha256 = "another"
    with pytest.raises(ValueError, match="made with sha256 sha.*, these are another.*same weights"):
        optimizer.load_state_dict(state)


GPT = {"model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "tied": False},
       "data": {"seq_len": 16, "batch_tokens": 64},
       "parametrization": {"kind": "mup", "mup_base_hidden_size": 1, "mup_base_filter_size": 1},
       "optimizer": {"lr": 1.0, "weight_decay": .01, "max_grad_norm": 1.0},
       "schedule": {"kind": "cosine", "warmup_frac": .3}, "duration": {"steps": 6}, "validations": 1}


@pytest.fixture(params=["small_fc", "velo"])
def recipe(request, tmp_path):
    """A recipe of a GPT under mup with base width 1, with schedule, clipping and decay, and made weights."""
    rnn, mlp = velo_weights()
    write(tmp_path / "velo_RNN.safetensors", rnn)
    write(tmp_path / "velo_MLP" / "model.safetensors", mlp)
    write(tmp_path / "small_fc", small_fc_weights())
    return make_recipe(GPT, {"optimizer.name": request.param, "optimizer.zero_std": .1,
                             "optimizer.weights": str(tmp_path / request.param)})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["velo"], indirect=True)
def test_a_run_that_was_stopped_and_resumed_ends_as_the_uninterrupted_one(recipe, capfd):
    """With schedule, clipping, decay and warm-up; and the log names the weights."""
    whole = train_recipe(recipe)
    stopped = train_recipe(recipe, flags=["--checkpoint_every=3", "--stop_at_step=3"])
    kept = stopped.log.with_suffix(".checkpoints")
    resumed = train_recipe(recipe, flags=[f"--resume={kept}"])
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters()))
    sha256 = optimizer_of(recipe.optimizer).check(recipe.optimizer)[-1]
    assert f"optimizer.weights {sha256}" in whole.log.read_text()
    for run in (whole, stopped, resumed):
        run.log.unlink()
    shutil.rmtree(kept)


def test_mulo_has_one_over_fan_in_for_its_matrices_and_its_logits(alone, recipe):
    model = build_model(recipe)
    [optimizer] = build_optimizers(recipe, model)
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    shares = {"small_fc": 1, "velo": 1 / 2}[recipe.optimizer.name]  # RMS(p) has the rest
    assert rates["attention"] == rates["ffn_in"] == 16**-shares and rates["ffn_out"] == 64**-shares
    assert {rates[role] for role in ("embedding", "position", "readout", "vector")} == {1}
    assert model.output_scale == 1 / 16


@pytest.mark.parametrize("recipe", ["velo"], indirect=True)
def test_velo_refuses_by_name_what_starts_at_zero_or_draws_it(alone, recipe):
    refused = make_recipe(GPT, {"optimizer.name": "velo", "optimizer.weights": recipe.optimizer.weights})
    with pytest.raises(ValueError, match=r"velo: .*blocks.0.attn.c_q.bias.*: all zeros.*optimizer.zero_std"):
        build_optimizers(refused, build_model(refused))
    model = build_model(recipe)
    build_optimizers(recipe, model)
    assert .05 < model.blocks[0].mlp.c_fc.bias.std() < .2


def test_learned_optimizers_are_built_on_the_meta_device(alone, recipe):
    """There velo asked whether tensors without data are zero."""
    with torch.device("meta"):
        model = build_model(make_recipe(GPT))
    [optimizer] = build_optimizers(recipe, model)
    assert {p.device.type for p in optimizer.params} == {"meta"}


@pytest.mark.parametrize("name, said", [
    ("small_fc", "`hf download btherien/mulo model.safetensors`, then --override optimizer.weights "
                 "btherien/mulo"),
    ("velo", "`hf download Pauljanson002/VeLO_RNN model.safetensors`, then --override optimizer.weights "
             "Pauljanson002/VeLO")])
def test_without_weights_there_is_no_run_but_a_line_with_repository_and_command(name, said):
    with pytest.raises(ValueError) as error:
        train_recipe(make_recipe(GPT, {"optimizer.name": name}))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_network_or_none_at_all_are_refused_in_a_line(tmp_path):
    path = write(tmp_path / "model.safetensors", small_fc_weights() | {
        "network.output.bias": torch.zeros(3)})
    said = {str(tmp_path): r"network.output.bias: found F32 \[3\], expected F32 \[2\]",
            str(tmp_path / "bad"): "not safetensors", "nobody/nothing": "found nobody/nothing, and no file"}
    (tmp_path / "bad").write_bytes(b"no safetensors")
    for name, words in said.items():
        with pytest.raises(ValueError, match=words):
            small_fc.check(small_fc.Fields(weights=name))
    write(path, {name: x for name, x in small_fc_weights().items() if "output" not in name})
    with pytest.raises(ValueError, match=r"network.output.\w+: found nothing"):
        small_fc.check(small_fc.Fields(weights=str(path)))


def test_a_repository_is_looked_up_among_those_fetched_and_never_in_the_network(tmp_path, monkeypatch):
    def cached(name, file, local_files_only=False):
        assert local_files_only and (name, file) == ("btherien/mulo", "model.safetensors")
        return str(path)
    path = write(tmp_path / "blob", small_fc_weights())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    found, _ = small_fc.check(small_fc.Fields(weights="btherien/mulo"))
    assert all(torch.equal(found[name], tensor) for name, tensor in small_fc_weights().items())


def test_a_file_may_hold_decays_of_its_own(tmp_path, alone):
    path = write(tmp_path / "mine", small_fc_weights() | {"rms_decays": torch.zeros(1)})
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}]
    [optimizer] = small_fc.build(groups, small_fc.Fields(weights=str(path)), 1, None)
    assert optimizer.kind.v == pytest.approx(.999) and dist.get_world_size() == 1
