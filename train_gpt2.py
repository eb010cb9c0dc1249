"""Train a GPT-2 as fast as possible: the submission. Run it with ./run.sh; harness/ is the referee.

The recipe `fineweb` is that of the NanoGPT speedrun of 2024-11-03
(https://github.com/KellerJordan/modded-nanogpt), `sample` the same model at laptop size, `fineweb_350m` and
`fineweb_1_5b` at GPT-2 medium's and XL's (docs/recipe.md says what of them is public, and what chosen).
    sample   3.932 nats, the mean of 3.9266, 3.9373 and 3.9325 (n = 3, seeds 0, 1 and 2), after 1,400 steps
             on 2 vCPUs of a Xeon with AMX, torch 2.13.0 for CPU
    fineweb  not run here, nor the larger two; its reference ended at 3.28 nats on 8 H100
Shape suffixes: B sequences, T tokens, C channels, H heads, D head dimension, V vocabulary.
"""
from harness.run import Run, open_run  # first: the referee binds its clock and its loss

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything that shapes the loss curve. The defaults are the fineweb record's."""

    # model
    vocab_size: int = 50304  # GPT-2's 50257, padded to a multiple of 128
    n_layer: int = 12  # blocks
    n_head: int = 6  # attention heads
    n_embd: int = 768  # width of the residual stream
    dtype: str = "bfloat16"  # of matrix products; weights, residual stream and logits are float32
    # data
    seq_len: int = 1024  # tokens
    batch_tokens: int = 524_288  # tokens a step, over all ranks
    micro_batch: int = 64  # sequences; the fixed unit of gradient accumulation
    epochs: int = 1  # passes over the data
    # schedule
    num_iterations: int = 4578  # steps
    cooldown_iters: int = 1308  # last steps, in which the learning rates fall linearly to 0
    val_every: int = 125  # steps between validations
    # optimizers
    embed_lr: float = 0.3  # learning rate of Adam, embedding
    head_lr: float = 0.002  # learning rate of Adam, head
    adam_betas: tuple[float, float] = (0.9, 0.95)  # decay of Adam's two moments
    muon_lr: float = 0.02  # learning rate of Muon, matrices of the blocks
    muon_momentum: float = 0.95  # Nesterov's
    newton_schulz_dtype: str = "bfloat16"  # of Muon's five products a step


RECIPES = {
    "fineweb": Hyperparameters(),
    "sample": Hyperparameters(
        vocab_size=4096, n_layer=2, n_head=1, n_embd=128, dtype="float32",
        seq_len=256, batch_tokens=2048, micro_batch=2, epochs=2,
        num_iterations=1400, cooldown_iters=1400, val_every=140,
        embed_lr=0.2, head_lr=0.016, adam_betas=(0.8, 0.95), newton_schulz_dtype="float32"),
    "fineweb_350m": Hyperparameters(
        n_layer=24, n_head=8, n_embd=1024, micro_batch=32, num_iterations=12_000, cooldown_iters=3429,
        head_lr=0.0015),
    # sizes, batch and steps of github.com/KellerJordan/modded-nanogpt/tree/master/records/102024_ScaleUp1B
    "fineweb_1_5b": Hyperparameters(
        n_layer=52, n_head=12, n_embd=1536, batch_tokens=491_520, micro_batch=12, num_iterations=20_344,
        cooldown_iters=5812, head_lr=0.001, muon_lr=0.007),
}

# ---------------------------------------------------------------------------------------------------
# Muon


def multiply(A: Tensor, B: Tensor, C: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return A B, or beta C + alpha A B, of matrices or of batches of them."""
    if C is None:
        return A @ B
    return (torch.addmm if A.ndim == 2 else torch.baddbmm)(C, A, B, beta=beta, alpha=alpha)


def symmetric(A: Tensor, B: Tensor, C: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return what multiply does, of which each matrix is known to be symmetric.

    Large ones come in bands of 256 rows from the diagonal on; what is below it is copied, not computed.
    """
    n = A.size(-2)
    if n < 512:
        return multiply(A, B, C, beta, alpha)
    D = A.new_empty(*A.shape[:-1], n)
    for i in range(0, n, 256):  # narrower bands multiply slower
        band = None if C is None else C[..., i:i + 256, i:]
        D[..., i:i + 256, i:] = multiply(A[..., i:i + 256, :], B[..., i:], band, beta, alpha)
        D[..., i + 256:, i:i + 256] = D[..., i:i + 256, i + 256:].mT
    return D


def newton_schulz(G: Tensor, steps: int = 5) -> Tensor:
    """Return roughly U V^T, where G = U S V^T, for a matrix (short side, long side) or a batch of them.

    Five steps of a quintic whose coefficients maximise the slope at 0 send the singular values into about
    [0.7, 1.2] rather than to 1, which serves as well (https://kellerjordan.github.io/posts/muon).
    """
    if G.ndim == 3 and G.size(-2) >= 512 and G.device.type == "cpu":  # whose batches copy what is sliced
        return torch.stack([newton_schulz(one, steps) for one in G])
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (G.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the spectral norm is at most the Frobenius norm
    if 2 * X.size(-2) > X.size(-1):
        for _ in range(steps):
            A = symmetric(X, X.mT)
            X = multiply(symmetric(A, A, A, b, c), X, X, beta=a)  # a X + (b A + c A A) X
        return X
    # wide: the factors of the steps are polynomials in X X^T, small squares that commute, and their product Q
    # meets X once. What is small beside the largest singular value loses digits: Q of more than three steps
    # diverges in bfloat16, and is off by 2e-4 in float32 where singular values fall over six decades
    for span in (3, steps - 3) if X.dtype is torch.bfloat16 and steps > 3 else (steps,):
        A, Q = symmetric(X, X.mT), None
        for left in reversed(range(span)):
            P = symmetric(A, A, A, b, c)
            P.diagonal(dim1=-2, dim2=-1).add_(a)
            Q = P if Q is None else symmetric(P, Q)
            A = symmetric(P, symmetric(P, A)) if left else A
        X = Q @ X
    return X


def muon_update(grads: list[Tensor], buffers: list[Tensor], momentum: float, dtype: torch.dtype) -> Tensor:
    """Return the orthogonalised Nesterov momentum of n gradients of one shape, (n, rows, columns).

    Updates the momentum buffers; dtype is that of the Newton-Schulz iteration and of the result.
    """
    for grad, buffer in zip(grads, buffers):
        buffer.mul_(momentum).add_(grad)
    G = torch.stack([grad.add(buffer, alpha=momentum).to(dtype) for grad, buffer in zip(grads, buffers)])
    return newton_schulz(G) if G.size(-2) <= G.size(-1) else newton_schulz(G.mT).mT


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz; one rank updates a matrix and alone has its momentum.

    Matrices of one shape are dealt to the ranks in turn; while one batch is gathered the next is computed.
    step() holds collectives: every rank must call it, with gradients already reduced.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, dtype: torch.dtype = torch.bfloat16,
                 compile=lambda function: function):
        super().__init__(params, dict(lr=lr, momentum=momentum, dtype=dtype))
        self.update = compile(muon_update)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.batches: list[tuple[int, int, list[Tensor]]] = []
        first = 0  # the deal goes on from batch to batch: no rank gets the odd matrix of every one
        for index, group in enumerate(self.param_groups):
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon takes matrices, found shape {tuple(p.shape)}; give it to Adam")
                by_shape.setdefault(p.shape, []).append(p)
            for params in by_shape.values():
                self.batches.append((first, index, params))
                first += len(params)

    def owned(self, first: int, params: list[Tensor]) -> list[Tensor]:
        """Return this rank's share of a batch whose first matrix falls to rank first % world_size."""
        return params[(self.rank - first) % self.world_size::self.world_size]

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices from their gradients: p -= lr * sqrt(max(1, rows / columns)) * update."""
        gathers = []
        for first, index, params in self.batches:
            group, owned = self.param_groups[index], self.owned(first, params)
            slots = -(-len(params) // self.world_size)
            update = params[0].new_zeros(slots, *params[0].shape, dtype=group["dtype"])
            for p in owned:
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            if owned:
                buffers = [self.state[p]["momentum_buffer"] for p in owned]
                grads = [p.grad for p in owned]
                update[:len(owned)] = self.update(grads, buffers, group["momentum"], group["dtype"])
            updates = update.new_empty(self.world_size * slots, *update.shape[1:])
            work = dist.all_gather(list(updates.chunk(self.world_size)), update, async_op=True)
            gathers.append((updates, work))
        for (first, index, params), (updates, work) in zip(self.batches, gathers):
            work.wait()
            lr, slots = self.param_groups[index]["lr"], len(updates) // self.world_size
            for i, p in enumerate(params):
                update = updates[(first + i) % self.world_size * slots + i // self.world_size]
                p.add_(update, alpha=-lr * max(1, p.size(0) / p.size(1)) ** 0.5)

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the momenta of the matrices that this rank updates; those of the others are dropped."""
        super().load_state_dict(state_dict)
        mine = {p for first, _, params in self.batches for p in self.owned(first, params)}
        for p in set(self.state) - mine:
            del self.state[p]


# ---------------------------------------------------------------------------------------------------
# GPT


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.c_q = nn.Linear(n_embd, n_embd, bias=False)
        self.c_k = nn.Linear(n_embd, n_embd, bias=False)
        self.c_v = nn.Linear(n_embd, n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        B, T, C = x_BTC.shape
        q_BTHD, k_BTHD, v_BTHD = (project(x_BTC).view(B, T, self.n_head, -1)
                                  for project in (self.c_q, self.c_k, self.c_v))
        q_BTHD, k_BTHD = rotate(norm(q_BTHD), *rotary), rotate(norm(k_BTHD), *rotary)
        y_BHTD = F.scaled_dot_product_attention(q_BTHD.transpose(1, 2), k_BTHD.transpose(1, 2),
                                                v_BTHD.transpose(1, 2), is_causal=True)
        return self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers with squared ReLU between (So et al. 2021, https://arxiv.org/abs/2109.08668)."""

    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x_BTC)).square())


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.attn = Attention(n_embd, n_head)
        self.mlp = MLP(n_embd)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x_BTC = x_BTC + self.attn(norm(x_BTC), rotary)
        return x_BTC + self.mlp(norm(x_BTC))


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without gain, in the dtype of x.

    torch's default eps depends on version and dtype; so does what autocast makes of the result.
    """
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps).type_as(x)


def rotate(x_BTHD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
    """Rotate the halves of each head by the position's angles (Su 2021, https://arxiv.org/abs/2104.09864)."""
    x1, x2 = x_BTHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos_T1D + x2 * sin_T1D, x2 * cos_T1D - x1 * sin_T1D), dim=-1).type_as(x_BTHD)


class GPT(nn.Module):
    """GPT-2 with rotary positions, RMSNorm, an untied head: token ids (B, T) to logits (B, T, V) of dtype."""

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.dtype = getattr(torch, hp.dtype)
        self.wte = nn.Embedding(hp.vocab_size, hp.n_embd)
        self.blocks = nn.ModuleList(Block(hp.n_embd, hp.n_head) for _ in range(hp.n_layer))
        self.lm_head = nn.Linear(hp.n_embd, hp.vocab_size, bias=False)
        # zero projections: each block starts as the identity, and the first loss is exactly ln(vocab_size)
        for name, p in self.named_parameters():
            if "c_proj" in name or "lm_head" in name:
                nn.init.zeros_(p)
        head_dim = hp.n_embd // hp.n_head
        frequency_D = 10000 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle_T1D = (torch.arange(hp.seq_len, dtype=torch.float32)[:, None] * frequency_D)[:, None]
        self.register_buffer("cos_T1D", angle_T1D.cos().to(self.dtype), persistent=False)
        self.register_buffer("sin_T1D", angle_T1D.sin().to(self.dtype), persistent=False)

    def forward(self, idx_BT: Tensor) -> Tensor:
        T = idx_BT.size(1)
        with torch.autocast(idx_BT.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            x_BTC = norm(self.wte(idx_BT))
            for block in self.blocks:
                x_BTC = block(x_BTC, (self.cos_T1D[:T], self.sin_T1D[:T]))
            return self.lm_head(norm(x_BTC))


# ---------------------------------------------------------------------------------------------------
# training


def build_optimizers(model: GPT, hp: Hyperparameters, compile=lambda function: function) -> list:
    """Return Adam for embedding and head and Muon for the matrices of the blocks."""
    adam = torch.optim.Adam([dict(params=[model.wte.weight], lr=hp.embed_lr),
                             dict(params=[model.lm_head.weight], lr=hp.head_lr)],
                            betas=hp.adam_betas, eps=1e-8, fused=True)
    muon = Muon(model.blocks.parameters(), hp.muon_lr, hp.muon_momentum,
                getattr(torch, hp.newton_schulz_dtype), compile)
    return [adam, muon]


def lr_factor(step: int, hp: Hyperparameters) -> float:
    """Return the factor on every learning rate: 1, then linearly to 0 over the last cooldown_iters steps."""
    return min(1.0, (hp.num_iterations - step) / hp.cooldown_iters)


def loss_sum(logits_BTV: Tensor, y_BT: Tensor) -> Tensor:
    """Return the float32 cross-entropy, summed: the harness divides it once, by the global token count."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), y_BT.flatten(), reduction="sum")


def train(hp: Hyperparameters, model: nn.Module, optimizers: list, run: Run) -> None:
    """Train the model in place; the run yields the steps and validates, times and logs between them."""
    loss_of = run.compile(loss_sum)  # fused: float32 logits of a pass would take 13 GB
    for step in run.steps(model, optimizers):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * lr_factor(step, hp)
        tokens = run.take(hp.batch_tokens)
        x_BT, y_BT = tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len)
        run.accumulate(lambda net, x, y: loss_of(net(x), y), x_BT, y_BT)
        for optimizer in optimizers:
            optimizer.step()


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        torch.manual_seed(run.seed)
        model = GPT(run.hp).to(run.device)
        train(run.hp, model, build_optimizers(model, run.hp, run.compile), run)


if __name__ == "__main__":
    main()
