"""What the referee asks of a model's parameters: who trains them, how many are active."""
from torch import nn

from harness.endings import BadInput
from harness.track import Track


def check_optimizers(model: nn.Module, optimizers: list) -> None:
    """Raise BadInput unless each parameter that wants a gradient is in exactly one optimizer group."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    for name, p in model.named_parameters():
        times = held.count(id(p))
        if p.requires_grad and times != 1:
            raise BadInput(f"parameter {name} is in {times} optimizer groups, expected exactly 1")


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
