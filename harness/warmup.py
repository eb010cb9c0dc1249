"""What a warm-up must leave as it found it: parameters, buffers, optimizers, torch's random numbers."""
import copy

import torch
from torch import nn

from harness.tripwires import Tripwire, state_digest


class Snapshot:
    """Copies of all that training changes; put_back() restores it in place."""

    def __init__(self, model: nn.Module, optimizers: list):
        self.model, self.optimizers = model, optimizers
        self._digest = state_digest(model, optimizers)
        self._tensors = {name: tensor.detach().clone() for name, tensor in self._named()}
        self._states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
        self._cpu_rng = torch.get_rng_state()
        self._cuda_rng = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def _named(self):
        yield from self.model.named_parameters()
        yield from self.model.named_buffers()

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore everything. Raises Tripwire where model or optimizers still differ from what they were."""
        for name, tensor in self._named():
            if name in self._tensors:
                tensor.copy_(self._tensors[name])
        self.model.zero_grad(set_to_none=True)
        for optimizer, saved in zip(self.optimizers, self._states):
            optimizer.state.clear()
            if saved["state"]:
                optimizer.load_state_dict(saved)
            for group, old in zip(optimizer.param_groups, saved["param_groups"]):
                params = group["params"]
                group.clear()
                group.update(old, params=params)
        torch.set_rng_state(self._cpu_rng)
        if self._cuda_rng is not None:
            torch.cuda.set_rng_state(self._cuda_rng)
        after = state_digest(self.model, self.optimizers)
        names = self._digest.keys() | after.keys()
        if changed := sorted(name for name in names if self._digest.get(name) != after.get(name)):
            raise Tripwire(f"warmup: {', '.join(changed[:5])} kept what the warm-up did; state belongs in "
                           f"parameters, buffers and the optimizers' state")
