"""The laptop record: one block beside a table of pairs of tokens, trained where a step's tokens lie.

Run it with ./run.sh --script submissions/sampled_pairs.py. Two things of a step are as large as the
vocabulary, or larger, and most of both is nothing: the softmax is taken over a sample of the tokens, and of
the table only those rows are summed, exchanged and stepped that the step looks up.
Shape suffixes: B sequences, T tokens of one, C channels, N tokens of a pass, V vocabulary, K candidates of
the softmax, R rows of the table that a step looks up, L lookups of a token.
"""
from harness.run import Run, open_run  # first: the referee binds its clock and its loss

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adam import adam


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything that shapes the loss curve."""

    # model
    vocab_size: int = 4096
    n_layer: int = 1
    n_embd: int = 128  # of the residual stream and of the one head of attention
    n_hidden: int = 128  # of the MLP
    pair_rows: int = 98_304  # of a table of hashed pairs of tokens, added to the embedding
    score_scale: float = 0.1  # of the products of normalised queries and keys
    block: int = 128  # queries that attend together
    # data
    seq_len: int = 256  # tokens
    batch_tokens: int = 2048  # tokens a step, over all ranks
    micro_batch: int = 4  # sequences of a pass, that share the candidates of the softmax
    epochs: int = 1
    candidates: int = 832  # of the sampled softmax
    # schedule: learning rates fall linearly to 0 from the first step on
    num_iterations: int = 320
    val_every: int = 320
    # Adam
    table_lr: float = 0.2
    head_lr: float = 0.013
    matrix_lr: float = 0.006
    betas: tuple[float, float] = (0.7, 0.95)


RECIPES = {
    "sample": Hyperparameters(
        vocab_size=4096, n_layer=1, n_embd=128, seq_len=256, batch_tokens=2048, epochs=1, num_iterations=320,
        val_every=320),
}

# ---------------------------------------------------------------------------------------------------
# functions with their own backward pass: few tensors saved, few passes over memory


class Norm(torch.autograd.Function):
    """RMSNorm over the last dimension, without gain."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        scale = x.square().mean(-1, keepdim=True).add_(torch.finfo(torch.float32).eps).rsqrt_()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        return torch.addcmul(g, y, (g * y).mean(-1, keepdim=True), value=-1).mul_(scale)


class Attend(torch.autograd.Function):
    """Causal attention (B, T, C) of one head, in blocks of queries that skip what none of them sees."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask_TT: Tensor, scale: float, block: int) -> Tensor:
        ctx.ends, ctx.scale = range(block, q.size(1) + block, block), scale
        y, ps = torch.empty_like(q), []
        for end in ctx.ends:
            mine = slice(end - block, end)
            ps.append(torch.baddbmm(mask_TT[mine, :end], q[:, mine], k[:, :end].mT, alpha=scale).softmax(-1))
            torch.bmm(ps[-1], v[:, :end], out=y[:, mine])
        ctx.save_for_backward(q, k, v, y, *ps)
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, *ps = ctx.saved_tensors
        g_q, g_k, g_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        own = (g * y).sum(-1, keepdim=True)  # what the softmax's gradient takes off: that of p, summed over p
        for end, p in zip(ctx.ends, ps):
            mine = slice(end - ctx.ends.step, end)
            scores = torch.baddbmm(own[:, mine], g[:, mine], v[:, :end].mT, beta=-1).mul_(p).mul_(ctx.scale)
            g_q[:, mine] = scores @ k[:, :end]
            g_k[:, :end].baddbmm_(scores.mT, q[:, mine])
            g_v[:, :end].baddbmm_(p.mT, g[:, mine])
        return g_q, g_k, g_v, None, None, None


class SquaredReLUMLP(torch.autograd.Function):
    """Two matrices (hidden, C) with squared ReLU between (So et al. 2021, https://arxiv.org/abs/2109.08668)."""

    @staticmethod
    def forward(ctx, x_NC: Tensor, up: Tensor, down: Tensor) -> Tensor:
        relu = (x_NC @ up.mT).relu_()
        squared = relu.square()
        ctx.save_for_backward(x_NC, up, down, relu, squared)
        return squared @ down

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, ...]:
        x_NC, up, down, relu, squared = ctx.saved_tensors
        g_up = (g @ down.mT).mul_(relu).mul_(2)
        return g_up @ up, g_up.mT @ x_NC, squared.mT @ g


class CrossEntropySum(torch.autograd.Function):
    """Cross-entropy of x W^T + correction, summed over tokens; its backward pass is used once."""

    @staticmethod
    def forward(ctx, x_NC: Tensor, W_KC: Tensor, correction_K: Tensor, column_N: Tensor) -> Tensor:
        p_NK = torch.addmm(correction_K, x_NC, W_KC.mT).softmax(-1)
        ctx.save_for_backward(x_NC, W_KC, p_NK, column_N)
        return -p_NK.gather(-1, column_N[:, None]).log().sum()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, W_KC, p_NK, column_N = ctx.saved_tensors
        p_NK.scatter_add_(-1, column_N[:, None], p_NK.new_full((len(column_N), 1), -1.0))
        return (p_NK @ W_KC).mul_(g), (p_NK.mT @ x_NC).mul_(g), None, None


norm = Norm.apply

# ---------------------------------------------------------------------------------------------------
# GPT


def rotate(x_BTHC: Tensor, cos_T1C: Tensor, sin_T1C: Tensor) -> Tensor:
    """Rotate the halves of each head by the position's angles (Su 2021, https://arxiv.org/abs/2104.09864)."""
    x1, x2 = x_BTHC.chunk(2, dim=-1)
    return torch.cat((x1 * cos_T1C + x2 * sin_T1C, x2 * cos_T1C - x1 * sin_T1C), dim=-1)


def sample(y_N: Tensor, noise_V: Tensor, weight_V: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids (K,), all of the targets y among them, columns of y (N,), corrections of logits (K,).

    The other ids are drawn by priority sampling (Duffield et al. 2007, https://doi.org/10.1145/1314690.1314696):
    those of the smallest noise / weight, each corrected by the logarithm of its chance to lie below that of
    the first that is left out: the sum of exponentials is unbiased. NaN where more than K ids are targets.
    """
    V, K = len(noise_V), min(K, len(noise_V))
    present_V = torch.zeros(V, dtype=torch.bool, device=y_N.device).index_fill_(0, y_N, True)
    first, ids = torch.where(present_V, -1.0, noise_V / weight_V).topk(min(K + 1, V), largest=False)
    ids_K, threshold = ids[:K], first[K] if K < V else first.new_tensor(torch.inf)
    chance_K = (weight_V[ids_K] * threshold).clamp_(max=1)
    column_V = y_N.new_zeros(V).index_copy_(0, ids_K, torch.arange(K, device=y_N.device))
    correction_K = -torch.where(present_V[ids_K], 1, chance_K).log()
    return ids_K, column_V[y_N], correction_K + torch.where(threshold >= 0, 0, torch.nan)


class GPT(nn.Module):
    """Token ids (B, T) to logits (B, T, V); with targets and looked up rows to the loss, summed.

    The table holds the embedding and behind it the hashed pairs of each token and the one before
    (record 62 of https://github.com/KellerJordan/modded-nanogpt#world-record-history).
    """

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.hp, C, layers, hidden = hp, hp.n_embd, hp.n_layer, hp.n_hidden
        # frozen: its gradient is that of the rows which are looked up
        self.table = nn.Embedding.from_pretrained(torch.zeros(hp.vocab_size + hp.pair_rows, C), freeze=True)
        self.lm_head = nn.Linear(C, hp.vocab_size, bias=False)
        self.qkv, self.out, self.up, self.down = (
            nn.Parameter(torch.empty(layers, n, C)) for n in (3 * C, C, hidden, hidden))
        frequency_D = 10000 ** (-torch.arange(0, C, 2, dtype=torch.float32) / C)
        angle_T1D = (torch.arange(hp.seq_len, dtype=torch.float32)[:, None] * frequency_D)[:, None]
        mask_TT = torch.full((hp.seq_len, hp.seq_len), -torch.inf).triu(1)
        for name, tensor in (("cos", angle_T1D.cos()), ("sin", angle_T1D.sin()), ("mask", mask_TT)):
            self.register_buffer(name, tensor, persistent=False)
        # how often a token was seen, and once more
        self.register_buffer("seen_V", torch.ones(hp.vocab_size), persistent=False)
        # each block starts as the identity, and the first loss is exactly ln(vocab_size)
        for p in (self.out, self.down, self.lm_head.weight):
            nn.init.zeros_(p)
        nn.init.normal_(self.table.weight[:hp.vocab_size])
        for p in (self.qkv, self.up):
            nn.init.uniform_(p, -C ** -0.5, C ** -0.5)

    def rows(self, idx_BT: Tensor) -> Tensor:
        """Return the rows of the table (L, B, T) that make up each token's embedding."""
        before_BT = F.pad(idx_BT[:, :-1], (1, 0))
        pair_BT = (idx_BT * 1_000_003 + before_BT * 7919) % self.hp.pair_rows
        return torch.stack([idx_BT, self.hp.vocab_size + pair_BT])

    def forward(self, idx_BT: Tensor, y_BT: Tensor | None = None, table_RC: Tensor | None = None,
                rows_LBT: Tensor | None = None, noise_V: Tensor | None = None) -> Tensor:
        B, T = idx_BT.shape
        if y_BT is None:
            table_RC, rows_LBT = self.table.weight, self.rows(idx_BT)
        x_BTC = norm(F.embedding(rows_LBT, table_RC).sum(0))
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down):
            x_BTC = x_BTC + self.attention(norm(x_BTC), qkv) @ out.mT
            x_BTC = x_BTC + SquaredReLUMLP.apply(norm(x_BTC).flatten(0, 1), up, down).view(B, T, -1)
        if y_BT is None:
            return self.lm_head(norm(x_BTC))
        weight_V = self.seen_V.sqrt()
        ids_K, column_N, correction_K = sample(y_BT.flatten(), noise_V, weight_V, self.hp.candidates)
        W_KC = F.embedding(ids_K, self.lm_head.weight)
        return CrossEntropySum.apply(norm(x_BTC).flatten(0, 1), W_KC, correction_K, column_N)

    def attention(self, x_BTC: Tensor, qkv: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        qkv_BTHC = (x_BTC @ qkv.mT).view(B, T, 3, C)
        q_BTC, k_BTC = rotate(norm(qkv_BTHC[:, :, :2]), self.cos[:T], self.sin[:T]).unbind(2)
        return Attend.apply(q_BTC, k_BTC, qkv_BTHC[:, :, 2], self.mask[:T, :T], self.hp.score_scale,
                            self.hp.block)


# ---------------------------------------------------------------------------------------------------
# training


class RowRMS:
    """Step rows of a table along their gradient over its root mean square, of which a row keeps one number.

    Only rows that a step looks up are touched: the means of others stand still. Adam on such rows was worse
    (0.026 nats after 250 steps): their momentum is of other texts, long ago.
    """

    def __init__(self, table: nn.Embedding, lr: float, beta: float, eps: float = 1e-8):
        self.table, self.lr, self.beta, self.eps, self.steps = table.weight, lr, beta, eps, 0
        self.square = torch.zeros_like(table.weight[:, :1])

    def parameters(self) -> list[Tensor]:
        return [self.table]

    @torch.no_grad()
    def step(self, ids_R: Tensor, rows_RC: Tensor, grad_RC: Tensor, factor: float) -> None:
        """Step the rows of these ids, now rows_RC, by their mean gradient; factor: on the learning rate."""
        self.steps += 1
        square = self.square[ids_R].lerp_(grad_RC.square().mean(-1, keepdim=True), 1 - self.beta)
        self.square[ids_R] = square
        size = square.div(1 - self.beta ** self.steps).sqrt_().add_(self.eps)
        self.table[ids_R] = rows_RC.addcdiv(grad_RC, size, value=-self.lr * factor)


class Adam:
    """Adam on parameters of one learning rate; torch.optim.Adam loads the compiler first, in 1.7 s."""

    def __init__(self, params: list[Tensor], lr: float, betas: tuple[float, float]):
        self.params, self.lr, self.betas = params, lr, betas
        self.first, self.second = ([torch.zeros_like(p.detach()) for p in params] for _ in range(2))
        self.steps = [p.new_zeros(()) for p in params]

    def parameters(self) -> list[Tensor]:
        return self.params

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Step along .grad; factor: on the learning rate."""
        adam(self.params, [p.grad for p in self.params], self.first, self.second, [], self.steps, fused=True,
             amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=self.lr * factor, weight_decay=0.0,
             eps=1e-8, maximize=False)


def build_optimizers(model: GPT, hp: Hyperparameters) -> list:
    """Return what steps the rows of the table, the head, and the blocks."""
    return [RowRMS(model.table, hp.table_lr, hp.betas[1]), Adam([model.lm_head.weight], hp.head_lr, hp.betas),
            Adam([model.qkv, model.out, model.up, model.down], hp.matrix_lr, hp.betas)]


def everyones(x_BT: Tensor) -> Tensor:
    """Return all ranks' rows of a step in their order (collective)."""
    parts = [torch.empty_like(x_BT) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x_BT)
    return torch.cat(parts)


def train(hp: Hyperparameters, model: GPT, optimizers: list, run: Run) -> None:
    """Train the model in place; the run yields the steps and validates, times and logs between them."""
    rows, *others = optimizers
    for step in run.steps(model, optimizers):
        tokens = run.take(hp.batch_tokens)
        x_BT, y_BT = tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len)
        # all ranks hold the same rows in the same order, so that only their gradient has to be summed
        rows_LBT = model.rows(everyones(x_BT.contiguous()))
        model.seen_V += rows_LBT[0].flatten().bincount(minlength=hp.vocab_size)
        ids_R, rows_LBT = rows_LBT.unique(return_inverse=True)
        table_RC = model.table.weight[ids_R].requires_grad_()
        chunks = len(x_BT) // hp.micro_batch
        noise = torch.rand(run.world_size, chunks, hp.vocab_size, generator=run.generator(step),
                           device=run.device)[run.rank]
        passes = zip(rows_LBT.split(len(x_BT), dim=1)[run.rank].split(hp.micro_batch, dim=1), noise)
        run.accumulate(lambda net, x, y: net(x, y, table_RC, *next(passes)), x_BT, y_BT, plain=False)
        dist.all_reduce(table_RC.grad)
        factor = 1 - step / hp.num_iterations
        rows.step(ids_R, table_RC.detach(), table_RC.grad.div_(hp.batch_tokens), factor)
        for optimizer in others:
            optimizer.step(factor)


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        torch.manual_seed(run.seed)
        model = GPT(run.hp).to(run.device)
        train(run.hp, model, build_optimizers(model, run.hp), run)


if __name__ == "__main__":
    main()
