"""Optimizers, each a module: build(groups, config, compile), its rule under mup, the size of its state.

build gets parameter groups, one a role, with params, role, lr, eps and weight_decay, and returns optimizers
whose step(loss) gets the mean loss over all ranks. What they keep is in self.state, which the harness saves.
"""
from lab.optimizers import adamw, muon

OPTIMIZERS = {"adamw": adamw, "muon": muon}
