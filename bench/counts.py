"""What is counted rather than measured: operations of a step, of Newton-Schulz, bytes of optimizer state."""
from typing import Any, NamedTuple


class Size(NamedTuple):
    """The sizes of a model and of its step that the counts need; a submission's hyperparameters have them."""

    n_layer: int
    n_embd: int
    vocab_size: int
    seq_len: int
    batch_tokens: int


# the speedrun's record of 2024-11-03, https://github.com/KellerJordan/modded-nanogpt
GPT2_124M = Size(n_layer=12, n_embd=768, vocab_size=50304, seq_len=1024, batch_tokens=524_288)


def block_shapes(size: Any) -> list[tuple[int, int]]:
    """Return the shapes of all matrices in the blocks, in each layer four of attention, two of the MLP."""
    n = size.n_embd
    return [(n, n)] * 4 * size.n_layer + [(4 * n, n), (n, 4 * n)] * size.n_layer


def step_flops(size: Any) -> int:
    """Return the model's operations in a step: 6 a matrix weight and token, and causal attention.

    Attention a layer and token: a query meets seq_len / 2 keys on average, twice (scores, values), 2
    operations each, forward once and backward twice: 6 * seq_len * n_embd. Newton-Schulz does not count.
    """
    weights = sum(m * n for m, n in block_shapes(size)) + size.vocab_size * size.n_embd
    return size.batch_tokens * (6 * weights + 6 * size.n_layer * size.seq_len * size.n_embd)


def newton_schulz_flops(size: Any) -> int:
    """Return the operations of Newton-Schulz as published: five times X X^T, A A and B X for each matrix.

    train_gpt2.py takes fewer for wide ones.
    """
    return sum(5 * (4 * m * m * n + 2 * m**3) for m, n in map(sorted, block_shapes(size)))


def state_bytes(size: Any) -> dict[str, int]:
    """Return the bytes of optimizer state for the blocks' matrices, all ranks together, in float32."""
    numel = sum(m * n for m, n in block_shapes(size))
    return {"muon": 4 * numel, "adam": 8 * numel}
