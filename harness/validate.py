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

from harness.runlog import sha256
from harness.shards import read_shard
from harness.track import Track
from harness.tripwires import Tripwire, check_causality, state_digest


class Validation:
    """A track's validation of one model, whose compiled form is net."""

    def __init__(self, track: Track, shard: Path, hp: Any, model: nn.Module, net: Callable,
                 device: torch.device):
        self.track, self.model, self.net, self.piece_ns = track, model, net, []  # of all pieces so far
        self.seq_len = getattr(hp, "val_seq_len", None) or hp.seq_len
        self.tokens = torch.from_numpy(read_shard(shard)[:track.val_tokens + 1].astype("int64")).to(device)
        self.inputs = self.tokens[:track.val_piece].view(-1, self.seq_len)
        self._probed = False

    @torch.no_grad()
    def logits(self, inputs: Tensor, compiled: bool = True) -> Tensor:
        """Return the logits in eval mode; not compiled where another input shape would compile anew."""
        self.model.eval()
        try:
            return self.net(inputs) if compiled else self.model(inputs)
        finally:
            self.model.train()

    def measure(self, generator: torch.Generator, probe: bool) -> tuple[float, str]:
        """Return the loss in nats and the digest of the parameters that gave it (collective).

        probe: whether to look, once a run, for logits that depend on later tokens. Raises Tripwire where they
        do, where parameters (not buffers) differ between ranks, or anything of the model changes.
        """
        before = state_digest(self.model, [])
        parameters = list(before.values())[:len(list(self.model.parameters()))]
        extremes = torch.tensor([parameters, [~digest for digest in parameters]], device=self.tokens.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)  # ~ turns the order round: the second is ~ the least
        if not torch.equal(extremes[0], ~extremes[1]):
            raise Tripwire("validation: the ranks hold different weights")
        loss = validate(self.logits, self.tokens, self.track.val_piece, self.seq_len, self.piece_ns)
        if probe and not self._probed and math.isfinite(loss):
            self._probed = True
            check_causality(self.logits, self.inputs, generator)
        if state_digest(self.model, []) != before:
            raise Tripwire("validation: the weights changed while the model was asked for logits")
        return loss, sha256(repr(parameters).encode())[:16]


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
        inputs = tokens[i * piece:(i + 1) * piece].view(-1, seq_len)
        targets, logits = tokens[i * piece + 1:(i + 1) * piece + 1], logits_of(inputs)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape[:-1] != inputs.shape:
            raise ValueError(f"model(inputs) returned {shape}, expected logits of shape ({len(inputs)}, "
                             f"{seq_len}, vocabulary)")
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
        sums[i] = float(losses.double().sum())  # waits for a GPU: the time is this piece's
        piece_ns.append(time.monotonic_ns() - begin)
    dist.all_reduce(sums)  # all but one summand of each piece are zeros: exact
    return math.fsum(sums.tolist()) / n if torch.isfinite(sums).all() else math.nan


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
