"""The smoke size of a recipe: the same parts, seconds on a CPU, on the text that the repository carries."""
from lab.recipe.load import as_dict, make_recipe
from lab.recipe.schema import Recipe


def smoke(recipe: Recipe) -> Recipe:
    """Return a recipe shrunk to 2 layers of width 64 and 8 steps; its kind of everything stays.

    Base sizes, batch and length schedules shrink with it; fractions stay, tokens of a warm-up become 10 %.
    """
    values = as_dict(recipe)
    model, words, data = values["model"], values["parametrization"], values["data"]
    if words["mup_base_hidden_size"]:
        wider = model["n_embd"] > words["mup_base_hidden_size"]
        words |= {"mup_base_hidden_size": 32 if wider else 64, "mup_base_filter_size": 128 if wider else 256}
        words["mup_base_head_dim"] = words["mup_base_head_dim"] and 32
    model |= {"n_layer": 2, "n_head": 2, "head_dim": None, "n_embd": 64, "vocab_size": None,
              "dtype": "float32", "filter_size": 256 if model["filter_size"] else None}
    data |= {"track": "lab", "seq_len": 64, "batch_tokens": 512, "micro_batch": 8}
    schedule = values["schedule"]
    for curve in (schedule, *schedule["roles"].values()):
        if curve["warmup_tokens"]:
            curve |= {"warmup_tokens": None, "warmup_frac": 0.1}
    schedule |= {"batch_tokens": [], "seq_len": [(0, 32), (2048, 64)] if schedule["seq_len"] else [],
                 "end_tokens": None}
    values["optimizer"]["newton_schulz_dtype"] = "float32"
    values |= {"duration": {"steps": 8}, "validations": 2}
    return make_recipe(values)
