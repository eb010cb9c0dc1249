"""The model of a recipe, by its kind, started as its parametrization says."""
import torch
from torch import Tensor, nn

from lab.models.gpt2 import GPT2
from lab.models.latent import Latent
from lab.models.speedrun import Speedrun
from lab.models.submission import submission
from lab.parametrization import initializer_of, multipliers, role_of, table
from lab.recipe.schema import Initializer, Recipe

KINDS = {"gpt2": GPT2, "speedrun": Speedrun, "latent": Latent, "submission": submission}


def build_model(recipe: Recipe) -> nn.Module:
    """Return the model of a recipe, initialised from torch's random state by its parametrization's table."""
    model, rows = KINDS[recipe.model.kind](recipe), table(recipe)
    if recipe.model.kind == "submission":  # it starts as it likes
        return model
    model.scale_forward(multipliers(recipe))
    for name, p in model.named_parameters():
        if p.ndim == 2:
            fill(p, initializer_of(recipe, rows[role_of(name)]))
        elif "ln_" in name:
            nn.init.constant_(p, float(name.endswith("weight")))
        else:
            fill(p, Initializer(std=recipe.model.bias_std))
    return model


@torch.no_grad()
def fill(p: Tensor, initializer: Initializer) -> None:
    """Draw a tensor's entries; a std of 0 gives zeros."""
    if initializer.std == 0:
        p.zero_()
    elif initializer.name == "normal":
        p.normal_(initializer.mean, initializer.std)
    else:
        nn.init.trunc_normal_(p, initializer.mean, initializer.std, initializer.a, initializer.b)
