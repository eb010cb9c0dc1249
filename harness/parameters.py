"""What the referee asks of a model's parameters: who trains them, how many are active."""
from collections import Counter
from typing import Any

from torch import Tensor, nn

from harness.endings import BadInput
from harness.track import Track


def parameters_of(optimizer: Any) -> list[Tensor]:
    """Return what an optimizer trains: it has torch's param_groups, or parameters()."""
    if hasattr(optimizer, "param_groups"):
        return [p for group in optimizer.param_groups for p in group["params"]]
    if not (hasattr(optimizer, "parameters") and hasattr(optimizer, "step")):
        raise BadInput(f"run.steps: {type(optimizer).__name__} is no optimizer; it needs step() and either "
                       f"parameters() or torch's param_groups")
    return list(optimizer.parameters())


def check_optimizers(model: nn.Module, optimizers: list) -> None:
    """Raise BadInput unless each parameter that wants a gradient is in exactly one optimizer group."""
    held = Counter(id(p) for optimizer in optimizers for p in parameters_of(optimizer))
    for name, p in model.named_parameters():
        if p.requires_grad and held[id(p)] != 1:
            raise BadInput(f"parameter {name} is in {held[id(p)]} optimizer groups, expected exactly 1")


def active_parameters(model: nn.Module) -> int:
    """Return how many parameters take part in matrix products: all but tables that are only looked up."""
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    looked_up -= {id(p) for m in model.modules() if not isinstance(m, nn.Embedding)
                  for p in m.parameters(recurse=False)}
    return sum(p.numel() for p in model.parameters() if id(p) not in looked_up)


def count(model: nn.Module, optimizers: list, track: Track) -> dict[str, int]:
    """Return the numbers of parameters. Raises BadInput where the track forbids the model."""
    check_optimizers(model, optimizers)
    active = active_parameters(model)
    if active > track.max_active_parameters:
        raise BadInput(f"the model has {active} active parameters, track {track.name} allows "
                       f"{track.max_active_parameters}")
    return {"active": active, "total": sum(p.numel() for p in model.parameters())}
