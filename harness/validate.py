"""Validation: the model gives logits from inputs alone, the harness computes the loss."""
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from harness.shards import read_shard
from harness.track import Track
from harness.tripwires import CAUSALITY_TOLERANCE, Tripwire, check_causality, combined, state_digest

# bound at import, before the submission can replace them
_cross_entropy, _all_reduce, _fsum = F.cross_entropy, dist.all_reduce, math.fsum


class Validation:
    """A track's validation of one model, whose compiled form is net."""

    def __init__(self, track: Track, shard: Path, hp: Any, model: nn.Module, net: Callable,
                 device: torch.device):
        self.track, self.model, self.net = track, model, net
        self.seq_len, self.piece_ns = getattr(hp, "val_seq_len", hp.seq_len), []  # of all pieces so far
        self.dtype = getattr(hp, "dtype", "float32")
        self.tokens = torch.from_numpy(read_shard(shard)[:track.val_tokens + 1].astype("int64")).to(device)
        self.inputs = self.tokens[:track.val_piece].view(-1, self.seq_len)

    @torch.no_grad()
    def logits(self, inputs: Tensor, compiled: bool = True) -> Tensor:
        """Return the logits in eval mode; not compiled where another input shape would compile anew."""
        self.model.eval()
        try:
            return self.net(inputs) if compiled else self.model(inputs)
        finally:
            self.model.train()

    def measure(self, generator: torch.Generator) -> tuple[float, str]:
        """Return the loss in nats and the digest of the weights that gave it (collective).

        Raises Tripwire where the logits depend on later tokens or the weights change.
        """
        before = state_digest(self.model, [])
        mine = torch.tensor(list(before.values()), device=self.tokens.device)
        low, high = mine.clone(), mine.clone()
        _all_reduce(low, op=dist.ReduceOp.MIN)
        _all_reduce(high, op=dist.ReduceOp.MAX)
        if not torch.equal(low, high):
            raise Tripwire("validation: the ranks hold different weights")
        loss = validate(self.logits, self.tokens, self.track.val_piece, self.seq_len, self.piece_ns)
        tolerance = CAUSALITY_TOLERANCE[self.dtype]
        if math.isfinite(loss):
            check_causality(self.logits, self.inputs, self.track.vocab_size - 1, tolerance, generator)
        if state_digest(self.model, []) != before:
            raise Tripwire("validation: the weights changed while the model was asked for logits")
        return loss, combined(before)


@torch.no_grad()
def validate(logits_of: Callable[[Tensor], Tensor], tokens: Tensor, piece: int, seq_len: int,
             piece_ns: list[int]) -> float:
    """Return the mean cross-entropy in nats of tokens[1:], each given those before it (collective).

    Given are those of its own sequence only. tokens: int64 on the device, shape (n + 1,), n a multiple of
    piece, piece of seq_len. Each piece is one call with inputs (piece / seq_len, seq_len), whatever the world
    size; ranks take pieces in turn. Cross-entropy in float32, summed in float64 in the order of the pieces:
    each world size gives the same number, on CPU to the last bit. NaN where a loss is not finite. piece_ns
    gets the time of each piece that this rank computes.
    """
    n = len(tokens) - 1
    sums = torch.zeros(n // piece, dtype=torch.float64, device=tokens.device)
    for i in range(dist.get_rank(), len(sums), dist.get_world_size()):
        begin = time.monotonic_ns()
        inputs, targets = tokens[i * piece:(i + 1) * piece], tokens[i * piece + 1:(i + 1) * piece + 1]
        logits = checked_logits(logits_of(inputs.view(-1, seq_len)), piece // seq_len, seq_len)
        losses = _cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
        sums[i] = float(losses.double().sum())  # waits for a GPU: the time is this piece's
        piece_ns.append(time.monotonic_ns() - begin)
    _all_reduce(sums)  # all but one summand of each piece are zeros: exact
    return _fsum(sums.tolist()) / n if torch.isfinite(sums).all() else math.nan


def checked_logits(logits: Any, batch: int, seq_len: int) -> Tensor:
    """Return the logits of a call; ValueError where their shape is not (batch, seq_len, vocabulary)."""
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (batch, seq_len):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model(inputs) returned {found}, expected logits of shape ({batch}, {seq_len}, "
                         f"vocabulary)")
    return logits


@torch.no_grad()
def write_text(logits_of: Callable[[Tensor], Tensor], end_of_text: int, vocab_size: int, seq_len: int,
               device: torch.device, length: int = 64) -> list[int]:
    """Return token ids drawn from the model after an end of text, always with the same random numbers.

    Inputs have the shape (1, seq_len) throughout: a causal model does not see the padding behind.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((1, seq_len), end_of_text, device=device)
    length = min(length, seq_len - 1)
    for i in range(length):
        logits = logits_of(ids)[0, i, :vocab_size].float().cpu()
        top, candidates = logits.topk(min(50, vocab_size))
        ids[0, i + 1] = candidates[torch.multinomial(top.softmax(-1), 1, generator=generator)].to(device)
    return ids[0, 1:length + 1].tolist()
