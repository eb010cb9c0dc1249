"""What is asked of a model's parameters."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.parameters import active_parameters, check_optimizers, count


def model(tied: bool) -> nn.Module:
    """Return a table of 70 numbers, a norm of 7 and a head of 70, which may be the table itself."""
    net = nn.ModuleDict({"table": nn.Embedding(10, 7), "norm": nn.LayerNorm(7, bias=False),
                         "head": nn.Linear(7, 10, bias=False)})
    if tied:
        net["head"].weight = net["table"].weight
    return net


def test_a_table_that_is_only_looked_up_is_not_active_and_one_that_is_a_head_too_counts_for_the_tracks_size():
    for tied, total in ((False, 147), (True, 77)):
        net = model(tied)
        optimizers = [torch.optim.SGD(net.parameters())]
        assert active_parameters(net) == 77
        track = SimpleNamespace(name="t", max_active_parameters=77)
        assert count(net, optimizers, track) == {"active": 77, "total": total}
        track.max_active_parameters = 76
        with pytest.raises(ValueError, match="77 active parameters, track t allows 76"):
            count(net, optimizers, track)


def test_each_parameter_that_wants_a_gradient_is_in_exactly_one_optimizer():
    net = model(tied=False)
    half, all_of_it = torch.optim.SGD(net["table"].parameters()), torch.optim.SGD(net.parameters())
    check_optimizers(net, [all_of_it])
    with pytest.raises(ValueError, match="parameter norm.weight is in 0 optimizer groups"):
        check_optimizers(net, [half])
    with pytest.raises(ValueError, match="parameter table.weight is in 2 optimizer groups"):
        check_optimizers(net, [half, all_of_it])
    net["norm"].requires_grad_(False)
    net["head"].requires_grad_(False)
    check_optimizers(net, [half])


def test_an_optimizer_is_whatever_has_parameters_and_a_step():
    net = model(tied=False)
    own = SimpleNamespace(parameters=net.parameters, step=lambda: None)
    check_optimizers(net, [own])
    with pytest.raises(ValueError, match="parameter table.weight is in 2 optimizer groups"):
        check_optimizers(net, [own, own])
    for wrong in (net.parameters, SimpleNamespace(parameters=net.parameters)):
        with pytest.raises(ValueError, match=r"is no optimizer; it needs step\(\) and either parameters\(\)"):
            check_optimizers(net, [wrong])
