"""The head of the public NanoGPT speedrun, of August 2026, as one recipe in plain PyTorch.

./run.sh --script submissions/frontier.py runs it. Each technique stands in one place and is off by one value;
records are those of https://github.com/KellerJordan/modded-nanogpt#world-record-history.
    fineweb  sizes and tokens (338.8 M) of record 89; not run on a GPU, so its loss and time are not known
    sample   what of it pays on a laptop; 4.331 nats after 300 steps (seed 1, one rank)
Shape suffixes: B rows, T tokens, C channels, H heads, D head dimension, V vocabulary, M targets of a token,
G chunks of N targets that share K candidates of the softmax, S stages.
"""
from harness.run import Run, open_run  # first: the referee binds its clock and its loss

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adam import adam


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything that shapes the loss curve. The defaults are the fineweb recipe's."""

    # model
    vocab_size: int = 50304  # GPT-2's 50257, padded to a multiple of 128
    end_of_text: int = 50256  # with which each document begins
    n_layer: int = 11  # blocks
    n_head: int = 6  # attention heads
    n_embd: int = 768  # width of the residual stream
    dtype: str = "bfloat16"  # of products, residual stream and Muon's iteration; weights are float32
    softcap: tuple[float, float, float] | None = (23, 5, 7.5)  # a, b, c of logits = a sigmoid((z + b) / c)
    lambdas: bool = True  # learned factors on the residual stream and on what is added to it
    again: bool = True  # embedding and pairs are added before every block; else once, and normalised
    rotary: float = 0.5  # part of a head's dimensions that turn with the position
    value_layers: tuple[int, ...] = (1, 2, 8, 9, 10)  # attention with a table of values a token id
    long_layers: tuple[int, ...] = (3, 10)  # long window, key offset, gates on heads
    paired_layers: tuple[int, ...] = (0, 2, 5, 9)  # two heads share keys and values, half a step apart
    xsa_layers: tuple[int, ...] = (1, 3, 4, 7)  # attention less its part along the token's own value
    skip: tuple[int, int] | None = (3, 6)  # the first's output stands for the second's attention
    cache_layer: int | None = 7  # attention behind it reads its output; the head sees a mixture of layers
    smear: bool = True  # the embedding has a part of that of the token before
    gate_hidden: int = 64  # of the MLPs that give coefficients a token; 0: coefficients keep their start
    gate_layers: tuple[int, ...] = (0, 4, 11)  # before which such an MLP looks; 11: before the head
    pair_rows: int = 377_280  # of a table of hashed pairs of tokens
    pair_signs: int = 8192  # rows of random signs for it; 0: none
    embed_std: float = 0.005  # of the embedding's start; the head's is the same if they are tied, or 0
    out_init: float = 0.5  # times 1 / sqrt(n_embd): sd of the projections back into the residual stream
    # data
    seq_len: int = 16_384  # tokens of a row, in which documents are packed and split
    batch_tokens: int = 131_072  # tokens a step, over all ranks
    batch_stages: tuple[tuple[int, int], ...] = ((423, 262_144), (847, 393_216), (1270, 393_216))
    micro_batch: int = 1  # rows; the fixed unit of gradient accumulation, and a chunk of the softmax
    epochs: int = 1  # passes over the data
    # schedule; one value a stage, of which the borders are those of batch_stages
    stage_lr: tuple[float, ...] = (1.0, 1.52, 1.73, 1.73)  # factor on learning rates, before the cooldown
    stage_windows: tuple = (  # tokens back that short and long layers see, None: all; last the validation's
        (128, 384), (384, 896), (640, 1408), (768, 1664), (768, 2560))
    stage_max_doc: tuple = (896, 2048, 2048, 2048, None)  # tokens after which texts are split; likewise
    stage_mtp: tuple = (((1, 1), (.5, .5), (.25, 0)),  # weights of the next tokens, at its start and end
                        ((1, 1), (.5, 0)), ((1, 1),), ((1, 1),))
    stage_candidates: tuple[int | None, ...] = (12_288,) * 4  # of the sampled softmax; None: everything
    num_iterations: int = 1285  # steps
    extension: int = 15  # last steps, at the floor
    cooldown_frac: float = 0.8  # part of the steps before, in which learning rates fall linearly to it
    lr_floor: float = 0.2
    untie_step: int = 847  # until which embedding and head are one; 0: never
    tail: tuple[int, float, float] | None = (848, 0.0067, 0.65)  # average of both: first step, rate, share
    val_every: int = 125  # steps between validations
    # optimizers
    adam_every: int = 2  # steps whose gradients Adam adds up, counted from the last; Muon takes each step
    # learning rate, decay times lr^2 (never against the update), Adam's betas; None: Muon
    embed: tuple = (0.008, 0.75, (0.5, 0.95))
    head: tuple = (0.008, 0.75, (0.5, 0.95))
    tables: tuple = (0.56, 0.025, (0.75, 0.95))  # of values and pairs
    gates: tuple = (0.0008, 0.005, (0.9, 0.99))  # MLPs of coefficients; higher was unstable (record 85)
    matrices: tuple = (0.023, 1.5, None)  # of the blocks
    momentum: tuple[float, float, int, int] = (0.85, 0.95, 300, 50)  # low, high, steps of its rise and fall
    two_speed: tuple[int, float, float, float] = (440, 0.85, 0.98, 0.4385)  # first step, decays, fast share

    def at(self, step: int) -> SimpleNamespace:
        """Return a step's values; whatever changes in training changes here."""
        borders, left = [0, *dict(self.batch_stages), self.num_iterations], self.num_iterations - step
        stage = sum(first <= step for first in borders) - 1
        part = (step - borders[stage]) / (borders[stage + 1] - borders[stage])
        last = self.num_iterations - self.extension
        cooled = min(1.0, max(0.0, 1 - (last - step) / (self.cooldown_frac * last)))
        (low, high, rise, fall), (first, rate, share) = self.momentum, self.tail or (0, 0, 0)
        momentum = low + (high - low) * min(1.0, step / rise, left / fall)
        return SimpleNamespace(
            stage=stage, lr=self.stage_lr[stage] * (1 - cooled) + self.lr_floor * cooled, momentum=momentum,
            mtp=[a + (b - a) * part for a, b in self.stage_mtp[stage]], tied=step < self.untie_step,
            betas=self.two_speed[1:3] if step >= self.two_speed[0] else (momentum, momentum),
            adam=(left - 1) % self.adam_every == 0,  # of the last step too: no gradient is unused
            average=rate * (step >= first), blend=share * (left == 1))


RECIPES = {
    "fineweb": Hyperparameters(),
    "sample": Hyperparameters(
        vocab_size=4096, end_of_text=4095, n_layer=2, n_head=1, n_embd=128, dtype="float32", softcap=None,
        lambdas=False, again=False, rotary=1.0, value_layers=(), long_layers=(), paired_layers=(),
        xsa_layers=(), skip=None, cache_layer=None, smear=False, gate_layers=(), pair_rows=20_480,
        pair_signs=0, embed_std=1.0, out_init=0.0, seq_len=256, batch_tokens=2048, batch_stages=(),
        micro_batch=2, stage_lr=(1.0,), stage_windows=(None, None), stage_max_doc=(None, None),
        stage_mtp=(((1, 1),),), stage_candidates=(1024,), num_iterations=300, extension=0, cooldown_frac=1.0,
        lr_floor=0.0, untie_step=0, tail=None, val_every=60, adam_every=1, embed=(0.2, 0.0, (0.7, 0.95)),
        head=(0.016, 0.0, (0.7, 0.95)), tables=(0.2, 0.0, (0.7, 0.95)), matrices=(0.006, 0.0, (0.7, 0.95))),
}

POLAR = ((8.1566, -22.4833, 15.8788), (4.0429, -2.8089, 0.5000), (3.8917, -2.7725, 0.5061),
         (3.2858, -2.3681, 0.4645), (2.3465, -1.7098, 0.4232))


def polar(G: Tensor) -> Tensor:
    """Return about U V^T of each matrix G = U S V^T (Polar Express, https://arxiv.org/abs/2505.16932)."""
    X = G if G.size(-2) <= G.size(-1) else G.mT
    X = X / (1.02 * X.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    # wide: polynomials multiply as small squares; begun anew behind two of them, else bfloat16 diverges
    for begin, end in ((0, 2), (2, 5)) if 2 * X.size(-2) <= X.size(-1) else zip(range(5), range(1, 6)):
        A, P, Q = X @ X.mT, None, None
        for a, b, c in POLAR[begin:end]:
            A = A if Q is None else P @ A @ P
            P = torch.baddbmm(A, A, A, beta=b, alpha=c)
            P.diagonal(dim1=-2, dim2=-1).add_(a)
            Q = P if Q is None else P @ Q
        X = Q @ X
    return X if G.size(-2) <= G.size(-1) else X.mT


def muon_update(W: Tensor, grad: Tensor, fast: Tensor, slow: Tensor, second: Tensor, scale: Tensor,
                numbers: Tensor, share: float, dtype: torch.dtype) -> None:
    """Step matrices (n, rows, columns) along the polar factor of their Nesterov momentum, in place.

    The momentum is a mixture of two (github.com/KellerJordan/modded-nanogpt/pull/340). The factor is divided
    by a running root mean square of each row, or column where those are more, and scaled back (NorMuon,
    https://arxiv.org/abs/2510.05491). numbers, a tensor, for which nothing compiles anew: learning rate,
    decay, Nesterov's momentum, decays of fast and slow momentum. scale: of each matrix's learning rate.
    """
    lr, decay, momentum, beta_fast, beta_slow = numbers
    fast.add_((grad - fast) * (1 - beta_fast))
    slow.add_((grad - slow) * (1 - beta_slow))
    X = polar((grad + momentum * (slow.lerp(fast, share) - grad)).to(dtype)).float()
    second.lerp_(X.square().mean(-1 if second.size(-1) == 1 else -2, keepdim=True), 0.1)
    Y = X * second.clamp(min=1e-20).rsqrt()
    Y = Y * (X.norm(dim=(-2, -1), keepdim=True) / Y.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-10))
    W.sub_(lr * scale * (Y + decay * W * (Y * W >= 0)))  # cautious decay


def padded(x: Tensor, rows: int) -> Tensor:
    """Return x with zeros behind it, so many rows in all; x itself where it has them."""
    return x if len(x) == rows else torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


class Sharded:
    """Muon on the blocks' matrices, Adam on all else; a rank steps its rows of a parameter's first axis."""

    def __init__(self, groups: list[dict], hp: Hyperparameters, compile: Callable):
        self.groups, self.share, self.dtype = groups, hp.two_speed[3], getattr(torch, hp.dtype)
        self.update = compile(muon_update)
        for group in groups:
            p, muon = self.mine(group["p"]), "scale" in group
            if muon:
                group["scale"] = self.mine(group["scale"])
            elif hp.adam_every > 1:
                group["sum"] = torch.zeros_like(group["p"], requires_grad=False)
            last = p.mean(-1 if p.size(-2) >= p.size(-1) else -2, keepdim=True) if muon else p.new_zeros(())
            group["state"] = [torch.zeros_like(x) for x in (p, p, last)]

    def parameters(self) -> list[Tensor]:
        return [group["p"] for group in self.groups]

    def mine(self, x: Tensor) -> Tensor:
        rows = -(-len(x) // dist.get_world_size())
        return x.detach()[dist.get_rank() * rows:][:rows]

    @torch.no_grad()
    def step(self, now: SimpleNamespace) -> None:
        """Update the parameters from this rank's parts of their mean gradients; all ranks must call it."""
        n, stepping, gathers = dist.get_world_size(), {}, []
        for group in self.groups:
            grad = group["sum"].add_(group["p"].grad) if "sum" in group else group["p"].grad
            if "scale" in group or now.adam:
                mine = grad.new_empty(-(-len(grad) // n), *grad.shape[1:])
                parts = list(padded(grad, n * len(mine)).chunk(n))
                stepping[group["name"]] = group, mine, dist.reduce_scatter(mine, parts, async_op=True)
        for group, _, work in stepping.values():
            work.wait()
            if "sum" in group:
                group["sum"].zero_()
        if now.tied and now.adam:  # both have the same start, gradient and settings, and so stay equal
            stepping["lm_head"][1].add_(stepping["embed"][1])
            stepping["embed"][1].copy_(stepping["lm_head"][1])
        for group, grad, _ in stepping.values():
            p, mine, settings = group["p"].detach(), self.mine(group["p"]), (self.share, self.dtype)
            if "scale" in group:
                lr = group["lr"] * now.lr
                numbers = torch.tensor([lr, group["decay"] * lr, now.momentum, *now.betas]).to(p.device)
                self.update(mine, grad[:len(mine)], *group["state"], group["scale"], numbers, *settings)
            else:
                self.adam(group, mine, grad[:len(mine)], now)
            full = padded(p, n * len(grad))
            work = dist.all_gather(list(full.chunk(n)), padded(mine, len(grad)), async_op=True)
            gathers.append((p, full, work))
        for p, full, work in gathers:
            work.wait()
            if full is not p:
                p.copy_(full[:len(p)])

    def adam(self, group: dict, p: Tensor, grad: Tensor, now: SimpleNamespace) -> None:
        """Step this rank's rows by Adam with cautious decay; keep the average of the last steps."""
        lr, (first, second, count), (beta1, beta2) = group["lr"] * now.lr, group["state"], group["betas"]
        if group["decay"]:
            p.mul_(1 - lr ** 2 * group["decay"] * (first.lerp(grad, 1 - beta1) * p > 0))
        adam([p], [grad], [first], [second], [], [count], fused=True, amsgrad=False, beta1=beta1, beta2=beta2,
             lr=lr, weight_decay=0.0, maximize=False, eps=4e-15)  # 1e-10 of sums over 25,000 tokens
        if now.average and group["name"] in ("embed", "lm_head"):
            group["average"] = group.get("average", p).lerp(p, now.average)
            p.lerp_(group["average"], now.blend)


def build_optimizer(model: nn.Module, hp: Hyperparameters, compile: Callable = lambda f: f) -> Sharded:
    """Return the optimizer of all parameters, those first whose update takes longest."""
    settings, groups = {  # last part of a name -> learning rate, decay, betas of Adam
        "embed": hp.embed, "lm_head": hp.head, **dict.fromkeys(("values", "pairs"), hp.tables),
        **dict.fromkeys(("qk", "vo", "mlp"), hp.matrices), **dict.fromkeys(("0", "2", "bias"), hp.gates),
        "resid": (0.04, 0.0, (0.9, 0.95)), "post": (0.008, 0.0, (0.9, 0.95)),
        "scalars": (0.04, 0.0, (0.9, 0.99)), "value_gate": (0.008, 0.005, (0.9, 0.99)),
        "smear_gate": (8e-5, 0.0, (0.9, 0.99))}, []
    for name, p in model.named_parameters():
        name = name.removesuffix(".weight")
        lr, decay, betas = settings[name.split(".")[-1]]
        groups.append(dict(p=p, name=name, lr=lr, decay=decay, betas=betas))
        if betas is None:
            groups[-1]["scale"] = p.new_full((len(p), 1, 1), max(1, p.size(1) / p.size(2)) ** 0.5)
            groups[-1]["scale"][1::2] *= 2 if name == "mlp" else 1  # ways back into the residual stream
    return Sharded(sorted(groups, key=lambda group: "scale" in group and -group["p"].numel()), hp, compile)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps).type_as(x)


def before(x: Tensor) -> Tensor:
    """Return what stands one place before in a row (axis 1); the first place keeps its own."""
    return torch.cat([x[:, :1], x[:, :-1]], dim=1)


def rotate(x_BTHD: Tensor, frequency: Tensor) -> Tensor:
    """Turn the halves of each head's first dimensions by the position's angles; the rest stays."""
    angle = torch.arange(x_BTHD.size(1), device=x_BTHD.device)[:, None, None] * frequency
    cos, sin, n = angle.cos().type_as(x_BTHD), angle.sin().type_as(x_BTHD), len(frequency)
    x1, x2, rest = x_BTHD.split([n, n, x_BTHD.size(-1) - 2 * n], dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin, rest), dim=-1)


def yarn(windows: list[int], width: int) -> tuple[Tensor, Tensor]:
    """Return frequencies (S, width) and scores' scales (S,) by windows (https://arxiv.org/abs/2309.00071)."""
    frequencies, scales = [1024 ** -torch.linspace(0, 1, width, dtype=torch.float64)], [0.1]
    for old, new in zip(windows, windows[1:]):
        kept = ((old * frequencies[-1] / (2 * math.pi) - 1) / 31).clip(0, 1)
        frequencies.append(frequencies[-1] * (old / new + (1 - old / new) * kept))
        scales.append(scales[-1] * (1 + 0.2 * math.log(new / old)))
    return torch.stack(frequencies).float(), torch.tensor(scales)


def attend(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, start_BT: Tensor | None, window: int | None,
           max_doc: int, varlen: Callable | None) -> Tensor:
    """Causal attention within documents to `window` tokens before, without starts to all before.

    varlen: torch's varlen_attn, for a GPU, skips what is masked here; NaN over one document in 128 tokens.
    """
    if start_BT is not None and varlen:
        N, most = start_BT.numel(), max(len(start_BT), start_BT.numel() // 128)
        cu = torch.nonzero_static(start_BT.flatten(), size=most + 1, fill_value=N).flatten().int()
        q, k, v = (x.flatten(0, 1) for x in (q_BTHD, k_BTHD, v_BTHD))
        y = varlen(q, k, v, cu, cu, max_doc, max_doc, scale=1.0, window_size=(window, 0))
        return y.view_as(q_BTHD) + torch.where(start_BT.sum() > most, torch.nan, 0.0).type_as(y)
    mask = None
    if start_BT is not None:
        place, document_BT = torch.arange(start_BT.size(1), device=start_BT.device), start_BT.cumsum(1)
        near = (place <= place[:, None]) & (place[:, None] <= place + window)
        mask = (near & (document_BT[:, :, None] == document_BT[:, None]))[:, None]
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=1.0).transpose(1, 2)


def sample(y_GN: Tensor, noise_GV: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids (G, K), all targets y among them, columns of y (G, N), corrections of logits (G, K).

    The other ids are uniform, each corrected by the logarithm of how many it stands for: the sum of
    exponentials is unbiased. NaN where K or more ids are targets; -1 is none.
    """
    (G, V), order = noise_GV.shape, torch.arange(K, device=y_GN.device)
    present_GV = noise_GV.new_zeros(G, V + 1).scatter_(1, y_GN % (V + 1), 1.0)[:, :V]  # -1 to the last column
    ids_GK = (2 * present_GV + noise_GV).topk(K, sorted=False).indices
    column_GV = y_GN.new_zeros(G, V).scatter_(1, ids_GK, order.expand(G, K))
    P_G1 = present_GV.sum(1, keepdim=True)
    weight_G1 = torch.where(P_G1 < K, (V - P_G1) / (K - P_G1), torch.nan) if K < V else torch.ones_like(P_G1)
    correction_GK = weight_G1.log() * (1 - present_GV.gather(1, ids_GK))
    return ids_GK, column_GV.gather(1, y_GN.clamp(min=0)), correction_GK


class GPT(nn.Module):
    """Token ids (B, T) to logits (B, T, V), or with targets to the loss of a stage, summed over tokens."""

    varlen = None  # a GPU's attention, see attend()

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.hp, self.dtype = hp, getattr(torch, hp.dtype)
        C, H, L, V, n = hp.n_embd, hp.n_head, hp.n_layer, hp.vocab_size, len(hp.value_layers)
        self.attn_layers = [i for i in range(L) if i not in (hp.skip or ())[1:]]
        A, pair = len(self.attn_layers), math.gcd(2, H)
        self.lm_head, self.embed = nn.Linear(C, V, bias=False), nn.Embedding(V, C)
        self.values = nn.Embedding(n * V, C) if n else None
        self.pairs = nn.Embedding(hp.pair_rows, C) if hp.pair_rows else None
        # each one matrix for Muon: queries or keys of a pair of heads (record 80); values, way back; MLP
        self.qk = nn.Parameter(torch.empty(A * 2 * H // pair, pair * C // H, C))
        self.vo, self.mlp = nn.Parameter(torch.empty(2 * A, C, C)), nn.Parameter(torch.empty(2 * L, 4 * C, C))
        self.resid = nn.Parameter(torch.full((L, 2), 1.1 ** 0.5)) if hp.lambdas else None
        self.post = nn.Parameter(torch.ones(L, 2)) if hp.lambdas else None
        self.scalars = nn.Parameter(torch.tensor([0.0, -1.5] + [0.5] * A)) if hp.lambdas else None
        self.value_gate = nn.Parameter(torch.zeros(n, H, 12)) if n else None
        self.smear_gate = nn.Parameter(torch.zeros(1, 12)) if hp.smear else None
        self.slots, hidden = {place: dict(self.slots_at(place)) for place in hp.gate_layers}, hp.gate_hidden
        self.gates = nn.ModuleDict({str(place): nn.Sequential(
            nn.Linear(C, hidden, bias=False), nn.GELU(), nn.Linear(hidden, sum(n for n, _ in slots.values())))
            for place, slots in self.slots.items() if hidden and slots})
        self.register_buffer("stage", torch.zeros(1, dtype=torch.int64), persistent=len(hp.stage_lr) > 1)
        longest = [long for _, long in hp.stage_windows[:-1]] if hp.stage_windows[0] else [1]
        frequency, scale = yarn(longest, int(C // H * hp.rotary) // 2)
        signs = 1 - 2 * torch.randint(2, (hp.pair_signs, C), generator=torch.Generator().manual_seed(0))
        for name, tensor in (("frequency", frequency), ("scale", scale), ("signs", signs.to(torch.int8))):
            self.register_buffer(name, tensor, persistent=False)
        with torch.no_grad():
            for table, std in (self.embed, hp.embed_std), (self.values, 0.01), (self.pairs, 0.0):
                nn.init.normal_(table.weight, std=std) if table else None
            self.lm_head.weight.copy_(self.embed.weight * (hp.untie_step > 0))
            for bank in (self.qk, self.vo, self.mlp):
                nn.init.uniform_(bank, -(.75 / C) ** 0.5, (.75 / C) ** 0.5)  # sd 0.5 / sqrt(C)
                bank[1::2] *= 1 if bank is self.qk else 2 * hp.out_init
            for gate in self.gates.values():
                nn.init.zeros_(gate[-1].weight), nn.init.zeros_(gate[-1].bias)

    def slots_at(self, place: int) -> list[tuple[str, tuple[int, float]]]:
        """Return name, size and start of the coefficients that come from what stands before a layer."""
        hp, H, last, found = self.hp, self.hp.n_head, self.hp.n_layer, []
        for i in range(place, min([other for other in hp.gate_layers if other > place] + [last])):
            found += [(f"x0 {i}", (1, 0.0))] * (hp.again and i > 0)
            found += [(f"pair {i}", (1, 0.05))] * (hp.again and hp.pair_rows > 0)
            found += [(f"xsa {i}", (H, 0.0))] * (i in hp.xsa_layers)
            found += [(f"head {i}", (H, 0.25))] * (i in hp.long_layers)
            found += [("skip", (1, 0.5))] * (i in (hp.skip or ())[1:])
        ends = place == last and hp.cache_layer is not None
        return found + [(f"end {j}", (1, -0.5 * (j == 0))) for j in range(5)] * ends

    def coefficients(self, place: int, x_BTC: Tensor) -> dict[str, Tensor]:
        """Return coefficients a token by name, each around its start, by a small MLP (records 81, 85)."""
        slots = self.slots.get(place, {})
        sizes, known = [size for size, _ in slots.values()], str(place) in self.gates
        moved = 0.1 * self.gates[str(place)](x_BTC) if known else x_BTC.new_zeros(sum(sizes))
        return {name: start + part for (name, (_, start)), part in
                zip(slots.items(), moved.type_as(x_BTC).split(sizes, dim=-1))}

    def forward(self, idx_BT: Tensor, y_BT: Tensor | None = None, weight_M: Tensor | None = None,
                noise_GV: Tensor | None = None, stage: int = -1) -> Tensor:
        hp, place = self.hp, torch.arange(idx_BT.size(1), device=idx_BT.device)
        windows, max_doc = hp.stage_windows[stage], hp.stage_max_doc[stage] or len(place)
        # attention begins anew with a row, with a document, and each max_doc tokens after that
        begin_BT = ((idx_BT == hp.end_of_text) * place).cummax(1).values
        start_BT = (place - begin_BT) % max_doc == 0 if windows else None
        with torch.autocast(idx_BT.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            x_BTC = norm(self.trunk(idx_BT, (start_BT, windows, max_doc)))
            if y_BT is None:
                return self.capped(self.lm_head(x_BTC))
            return self.loss_sum(x_BTC, y_BT, weight_M, noise_GV, hp.stage_candidates[stage])

    def trunk(self, idx_BT: Tensor, span: tuple) -> Tensor:
        """Return the residual stream behind the last block."""
        hp, cache, outputs = self.hp, self.hp.cache_layer, []
        e_BTC, pair_BTC = self.embed(idx_BT), self.pair(idx_BT) if hp.pair_rows else 0.0
        if hp.smear:
            gate = self.scalars[0] * F.linear(e_BTC[..., :12], self.smear_gate).sigmoid()
            e_BTC = e_BTC + gate * before(e_BTC)
        x_BTC = x0_BTC = norm(e_BTC if hp.again else e_BTC + pair_BTC).to(self.dtype)
        values = [self.values(idx_BT + j * hp.vocab_size).to(self.dtype) for j in range(len(hp.value_layers))]
        g = self.coefficients(0, x_BTC)
        x_BTC = first_BTC = x_BTC + g["pair 0"] * pair_BTC if "pair 0" in g else x_BTC
        for i in range(hp.n_layer):
            g |= self.coefficients(i, x_BTC) if i else {}
            if i in self.attn_layers:
                table_BTC = values[hp.value_layers.index(i)] if i in hp.value_layers else None
                read_BTC = x_BTC if cache is None or i <= cache else outputs[cache]
                more_BTC = self.attention(i, norm(read_BTC), table_BTC, span, g)
            else:
                more_BTC = self.scalars[1].sigmoid() * g["skip"] * outputs[hp.skip[0]]
            x_BTC = self.joined(x_BTC, more_BTC, i, 0)
            for name, more_BTC in ((f"x0 {i}", x0_BTC), (f"pair {i}", pair_BTC)):
                x_BTC = x_BTC + g[name] * more_BTC if i and name in g else x_BTC
            up_BTF = F.linear(norm(x_BTC), self.mlp[2 * i])
            x_BTC = self.joined(x_BTC, up_BTF.relu().square() @ self.mlp[2 * i + 1], i, 1)
            outputs.append(x_BTC)
        g |= self.coefficients(hp.n_layer, x_BTC)
        sources = (outputs[cache], first_BTC, outputs[-2], values[0], outputs[hp.skip[0]]) if cache else ()
        return x_BTC + sum(g[f"end {j}"] * source for j, source in enumerate(sources))

    def pair(self, idx_BT: Tensor) -> Tensor:
        """Return the rows of the hashed pairs that end at each token, with signs (records 62, 83)."""
        rows, signs = self.hp.pair_rows, self.hp.pair_signs
        row_BT = ((36313 * idx_BT[:, 1:]) ^ (27191 * idx_BT[:, :-1])) % (rows - 1)
        pair_BTC = self.pairs(F.pad(row_BT, (1, 0), value=rows - 1)).to(self.dtype)
        return pair_BTC * self.signs[(idx_BT ^ before(idx_BT)) % signs] if signs else pair_BTC

    def joined(self, x_BTC: Tensor, more_BTC: Tensor, layer: int, half: int) -> Tensor:
        if self.hp.lambdas:
            return self.resid[layer, half] * x_BTC + self.post[layer, half] * more_BTC
        return x_BTC + more_BTC

    def attention(self, i: int, u_BTC: Tensor, table_BTC: Tensor | None, span: tuple, g: dict) -> Tensor:
        """Return what a layer's attention adds, from u and a table of values."""
        hp, (B, T, C), (start_BT, windows, max_doc) = self.hp, u_BTC.shape, span
        a, lanes, long = self.attn_layers.index(i), 1 + (i in hp.paired_layers), i in hp.long_layers
        V_CC = self.vo[2 * a] * (self.scalars[2 + a] if hp.lambdas else 1)
        v_BTHD = F.linear(u_BTC, V_CC).view(B, T, hp.n_head, -1)
        if table_BTC is not None:
            few = torch.cat((u_BTC[..., :6], table_BTC[..., :6]), dim=-1)
            gate_BTH = 2 * F.linear(few, self.value_gate[hp.value_layers.index(i)]).sigmoid()
            v_BTHD = v_BTHD + gate_BTH[..., None] * table_BTC.view_as(v_BTHD)
        qk_BTC = F.linear(u_BTC, self.qk.view(-1, 2 * C, C)[a]).chunk(2, dim=-1)
        # paired: heads l and l + H / 2 are places 2t and 2t + 1 of one head (record 58)
        q, k = (norm(x.reshape(B, T * lanes, hp.n_head // lanes, -1)) for x in qk_BTC)
        frequency = self.frequency.index_select(0, self.stage).flatten()
        q, k, turned = rotate(q, frequency), rotate(k, frequency), 2 * len(frequency)
        if long:  # what does not turn comes from the token before: one layer finds repetitions (record 49)
            k = torch.cat((k[..., :turned], before(k[..., turned:])), dim=-1)
        if lanes == 2 and start_BT is not None:
            start_BT = torch.stack((start_BT, torch.zeros_like(start_BT)), dim=-1).flatten(1)
        q = q * self.scale.index_select(0, self.stage).type_as(q)
        y_BTHD = attend(q, k, v_BTHD.reshape(q.shape), start_BT, windows and windows[long], lanes * max_doc,
                        self.varlen).reshape(v_BTHD.shape)
        if i in hp.xsa_layers:
            share_BTH = (y_BTHD * v_BTHD).sum(-1) / v_BTHD.square().sum(-1).clamp(min=1e-8)
            y_BTHD = y_BTHD - (g[f"xsa {i}"].tanh() * share_BTH)[..., None] * v_BTHD
        y_BTHD = y_BTHD * g[f"head {i}"][..., None] if long else y_BTHD
        return F.linear(y_BTHD.flatten(2), self.vo[2 * a + 1])

    def capped(self, z: Tensor) -> Tensor:
        """Return logits, bounded in float32 where the recipe says so (records 18, 54)."""
        a, b, c = self.hp.softcap or (0, 0, 0)
        return a * torch.sigmoid((z.float() + b) / c) if a else z

    def loss_sum(self, x_BTC: Tensor, y_BT: Tensor, weight_M: Tensor, noise_GV: Tensor | None,
                 candidates: int | None) -> Tensor:
        """Return the weighted cross-entropy of the next M tokens, of one sum of exponentials, summed."""
        M, W_GKC, more = len(weight_M), self.lm_head.weight[None], 0.0
        y_BTM = torch.stack([F.pad(y_BT[:, m:], (0, m), value=-1) for m in range(M)], dim=-1)
        column = y_BTM.clamp(min=0)
        if candidates:
            K = min(candidates, self.hp.vocab_size)
            ids_GK, column, correction_GK = sample(y_BTM.view(len(noise_GV), -1), noise_GV, K)
            W_GKC, more = F.embedding(ids_GK, self.lm_head.weight), correction_GK[:, None]
        z_GNK = self.capped(x_BTC.view(len(W_GKC), -1, x_BTC.size(-1)) @ W_GKC.mT).float()
        sum_GN = (z_GNK + more).logsumexp(-1)
        loss_GNM = sum_GN[..., None] - z_GNK.gather(-1, column.view(*sum_GN.shape, M))
        return (loss_GNM * weight_M * (y_BTM.view_as(loss_GNM) >= 0)).sum()


def train(hp: Hyperparameters, model: GPT, optimizer: Sharded, run: Run) -> None:
    """Train the model in place; the run yields the steps and validates, times and logs between them."""
    for step in run.steps(model, [optimizer], warmup=[0, *dict(hp.batch_stages)]):
        now, tokens = hp.at(step), run.take(run.batch_tokens(step))
        model.stage.fill_(now.stage)
        x_BT, y_BT = tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len)
        weight_M, chunks = torch.tensor(now.mtp, device=run.device), len(x_BT) // hp.micro_batch
        # of all ranks' chunks: the candidates of a chunk depend on its place in the step, not on the ranks
        noise_GV = torch.rand(run.world_size * chunks, hp.vocab_size, generator=run.generator(step),
                              device=run.device)
        noises = iter(noise_GV[run.rank * chunks:])
        run.accumulate(lambda net, x, y: net(x, y, weight_M, torch.stack([
            next(noises) for _ in range(len(x) // hp.micro_batch)]), now.stage), x_BT, y_BT, reduce=False,
            plain=len(now.mtp) == 1 and not hp.stage_candidates[now.stage])
        optimizer.step(now)


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        torch.manual_seed(run.seed)
        model = GPT(run.hp).to(run.device)
        if run.device.type == "cuda":  # it loads torch's compiler, which the judge's sandbox does not let in
            from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415
            model.varlen = varlen_attn
        train(run.hp, model, build_optimizer(model, run.hp, run.compile), run)


if __name__ == "__main__":
    main()
