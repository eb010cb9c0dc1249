"""The submission with AdamW for the blocks' matrices in Muon's place; everything else is train_gpt2.py's.

./run.sh --script bench/adamw_matrices.py --matrix_lr 0.003
"""
from harness.run import open_run  # first: the referee binds its clock and its loss

import dataclasses
from dataclasses import dataclass

import torch

import train_gpt2
from train_gpt2 import GPT, train


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(train_gpt2.Hyperparameters):
    """Those of train_gpt2.py, and the learning rate of AdamW."""

    matrix_lr: float = 0.003


RECIPES = {name: Hyperparameters(**dataclasses.asdict(hp)) for name, hp in train_gpt2.RECIPES.items()}


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        hp = run.hp
        torch.manual_seed(run.seed)
        model = GPT(hp).to(run.device)
        adam, _ = train_gpt2.build_optimizers(model, hp)
        matrices = torch.optim.AdamW(model.blocks.parameters(), lr=hp.matrix_lr, betas=hp.adam_betas,
                                     weight_decay=0.0, fused=True)
        train(hp, model, [adam, matrices], run)


if __name__ == "__main__":
    main()
