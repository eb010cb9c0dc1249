"""Parametrization: a table from a tensor's role and fan-in to its init, learning rate, decay and eps.

Maximal update (mup): Yang et al. 2022, Tensor Programs V (https://arxiv.org/abs/2203.03466), in the words of
Cerebras' guide for Cerebras-GPT (https://arxiv.org/abs/2304.03208). With m = fan_in / base fan_in:

    role                    init std       Adam lr   weight decay   Adam eps
    embedding, position     s              1         1              1
    matrix of a block       s / sqrt(m)    1 / m     m (or 1)       1 / m
    readout                 s              1         1              1          logits x alpha / m
    gain, bias              1, 0           1         0              1

Rates are the optimizer's own, MUP in its file. Matrices that write to the residual stream start smaller by
sqrt(2 L). The standard parametrization (sp) is the same table with m = 1: at base width both are the same
run, bit for bit.
"""
import math
from collections.abc import Iterator
from typing import NamedTuple

from lab.optimizers import optimizer_of
from lab.recipe.load import replace
from lab.recipe.schema import Initializer, Parametrization, Recipe
from lab.types import HIDDEN

GROUPS = {  # the guide's word -> the roles whose learning rate it adjusts
    "embedding": ("embedding", "position"), "decoder_attention": ("attention", "attention_out"),
    "decoder_input_ffn": ("ffn_in",), "decoder_output_ffn": ("ffn_out",)}
TUNABLES = ("embeddings_scale", "output_logits_alpha", "scale_output_logits_by_d", "scale_qk_dot_by_d",
            "attention_logits_alpha", "adjust_learning_rate", "mup_base_head_dim")


class Row(NamedTuple):
    """How one role is started and trained: factors on the recipe's own lr, weight decay and eps."""

    role: str
    fan_in: int
    width: float  # m
    std: float
    lr: float
    weight_decay: float
    eps: float


class Multipliers(NamedTuple):
    """Factors in the forward pass."""

    embedding: float  # on the sum of token and position embedding
    attention: float  # on q.k, before the softmax
    output: float  # on the logits


def table(recipe: Recipe) -> dict[str, Row]:
    """Return the rows of all roles that a recipe's model has. Raises ValueError where `check` does."""
    check(recipe)
    model, optimizer, words = recipe.model, recipe.optimizer, recipe.parametrization
    d, f = model.n_embd, model.d_ff
    m_h, m_f = widths(recipe)
    automatic = {"attention": (d, m_h), "attention_out": (d, m_h), "ffn_in": (d, m_h), "ffn_out": (f, m_f)}
    adjusted = {role: value for group, value in words.adjust_learning_rate.items() for role in GROUPS[group]}
    hidden, embedding = model.initializer, model.embedding_initializer or model.initializer
    rows = {}
    for role in roles(recipe):
        fan_in, m = automatic.get(role, (d if role == "readout" else 1, 1.0))
        std = (embedding if role in ("embedding", "position") else hidden).std / math.sqrt(m)
        if role in ("attention_out", "ffn_out"):
            std *= {"scaled": (2 * model.n_layer) ** -0.5, "plain": 1.0, "zero": 0.0,
                    "per_layer": 2 / model.n_layer}[model.residual_init]
        if role == "readout":
            std *= {"normal": 1.0, "zero": 0.0, "double": 2.0}[model.readout_init]
        lr = adjusted.get(role, automatic_lr(recipe, role))
        decay = 1 / lr if words.weight_decay == "constant_product" and lr else 1.0
        lr *= optimizer.lr_factor.get(role, 1.0)
        decay = 0.0 if role == "vector" else decay
        rows[role] = Row(role, fan_in, m, std, lr, decay, 1 / m if words.scale_eps else 1.0)
    return rows


def automatic_lr(recipe: Recipe, role: str) -> float:
    """Return the factor on a role's rate by the optimizer's own rule, which mup alone asks for."""
    if recipe.parametrization.kind == "sp":
        return 1.0
    name, (m_h, m_f) = recipe.optimizer.name, widths(recipe)
    if (powers := getattr(optimizer_of(recipe.optimizer), "MUP", None)) is None:
        raise ValueError(f"optimizer.name: lab/optimizers/{name}.py has no rule under mup; give it MUP, or "
                         f"train with parametrization.kind sp")
    return (m_f if role == "ffn_out" else m_h) ** powers[role not in HIDDEN]


def roles(recipe: Recipe) -> Iterator[str]:
    """Yield the roles of the tensors that a recipe's model has; of a submission, those that it may have."""
    yield "embedding"
    if recipe.model.kind in ("gpt2", "submission"):
        yield "position"
    yield from HIDDEN[2:] if recipe.model.kind == "latent" else HIDDEN
    if recipe.model.kind != "gpt2" or not recipe.model.tied:
        yield "readout"
    if recipe.model.kind != "speedrun":
        yield "vector"


def role_of(name: str) -> str:
    """Return the role of a parameter by its name, the same in every model."""
    if not name.endswith("weight") or ".ln_" in name or name.startswith("ln_"):
        return "vector"
    for part, role in (("wte", "embedding"), ("wpe", "position"), ("lm_head", "readout"),
                       ("attn.expand", "ffn_in"), ("attn.project", "ffn_out"),
                       ("attn.c_proj", "attention_out"), ("attn.", "attention"), ("mlp.c_fc", "ffn_in"),
                       ("mlp.c_proj", "ffn_out")):
        if part in name:
            return role
    raise ValueError(f"parameter {name} has no role")


def widths(recipe: Recipe) -> tuple[float, float]:
    """Return m_h = hidden / base hidden and m_f = filter / base filter; 1 and 1 under sp."""
    model, words = recipe.model, recipe.parametrization
    if words.kind == "sp":
        return 1.0, 1.0
    return model.n_embd / words.mup_base_hidden_size, model.d_ff / words.mup_base_filter_size


def multipliers(recipe: Recipe) -> Multipliers:
    """Return the factors of the forward pass.

    Attention: alpha sqrt(base head_dim) / head_dim under mup, alpha / sqrt(head_dim) under sp, and exactly
    alpha / head_dim, the guide's literal reading, with scale_qk_dot_by_d.
    """
    check(recipe)
    words, head_dim, (m_h, _) = recipe.parametrization, recipe.model.head_size, widths(recipe)
    attention = math.sqrt(base_head_dim(recipe)) / head_dim
    if words.scale_qk_dot_by_d:
        attention = 1 / head_dim
    alpha = 1.0 if words.output_logits_alpha is None else words.output_logits_alpha
    output = alpha / (m_h if words.scale_output_logits_by_d else math.sqrt(m_h))
    return Multipliers(words.embeddings_scale, words.attention_logits_alpha * attention, output)


def base_head_dim(recipe: Recipe) -> float:
    """Return the head size of the base model; under sp that of the model."""
    model, words = recipe.model, recipe.parametrization
    if words.kind == "sp":
        return model.head_size
    return words.mup_base_head_dim or model.head_dim or words.mup_base_hidden_size / model.n_head


def check(recipe: Recipe) -> None:
    """Raise ValueError, in one line, where the words of a parametrization cannot go together."""
    optimizer_of(recipe.optimizer)
    words = recipe.parametrization
    bases = words.mup_base_hidden_size, words.mup_base_filter_size
    if (bases[0] is None) != (bases[1] is None):
        raise ValueError(f"parametrization: found mup_base_hidden_size {bases[0]} and mup_base_filter_size "
                         f"{bases[1]}; give both or neither")
    if bases[0] is None:
        if words.kind == "mup":
            raise ValueError("parametrization: mup needs mup_base_hidden_size and mup_base_filter_size")
        tuned = [name for name in TUNABLES if getattr(words, name) != getattr(Parametrization(), name)]
        if tuned:
            raise ValueError(f"parametrization: {', '.join(tuned)} without base sizes; give "
                             f"mup_base_hidden_size and mup_base_filter_size, also to sp")
    elif min(bases) < 1:
        raise ValueError(f"parametrization: base sizes {bases[0]} and {bases[1]}, expected at least 1")
    for group in words.adjust_learning_rate:
        if group not in GROUPS:
            raise ValueError(f"adjust_learning_rate: no group {group!r}; there are {', '.join(GROUPS)}")
    if recipe.model.kind == "submission" and bases[0] is not None:
        raise ValueError("model.kind submission: it starts as it likes; parametrization.kind is sp, without "
                         "base sizes")
    if recipe.model.kind != "gpt2":
        check_fixed(recipe)


def check_fixed(recipe: Recipe) -> None:
    """Raise ValueError where a recipe asks of the latent or the speedrun's model what it does not have."""
    model, words = recipe.model, recipe.parametrization
    head_dim, latent = model.head_size, model.kind == "latent"
    fixed = {"model.tied": (model.tied, False), "model.bias": (model.bias, False),
             "model.activation": (model.activation, "gelu" if latent else "squared_relu")}
    whose, why = "the latent model", "that is how it is made"
    if latent:
        fixed["model.filter_size"] = (model.d_ff, 2 * (model.d_ff // 2))  # its halves
    else:
        whose, why = "the speedrun's model", "its embedding is normalised, so are queries and keys"
        fixed |= {"model.filter_size": (model.d_ff, 4 * model.n_embd),
                  "embeddings_scale": (words.embeddings_scale, 1.0),
                  "attention_logits_alpha": (words.attention_logits_alpha, 1.0),
                  "scale_qk_dot_by_d": (words.scale_qk_dot_by_d, False),
                  "mup_base_head_dim": (words.mup_base_head_dim or head_dim, head_dim)}
    for key, (found, expected) in fixed.items():
        if found != expected:
            raise ValueError(f"{key}: found {found}; {whose} has {expected}: {why}")


def replaced(recipe: Recipe) -> list[str]:
    """Return a line for each automatic learning-rate factor that the recipe replaces by its own."""
    return [f"adjust_learning_rate: {group} {value:g} replaces the automatic {automatic_lr(recipe, role):g}"
            for group, value in recipe.parametrization.adjust_learning_rate.items()
            for role in GROUPS[group][-1:]]


def initializer_of(recipe: Recipe, row: Row) -> Initializer:
    """Return the distribution of a role: the recipe's, its bounds scaled with the std."""
    model = recipe.model
    given = model.initializer
    if row.role in ("embedding", "position"):
        given = model.embedding_initializer or given
    scale = row.std / given.std if given.std else 0.0
    a, b = (-2 * given.std if given.a is None else given.a), (2 * given.std if given.b is None else given.b)
    return Initializer(name=given.name, mean=given.mean, std=row.std, a=a * scale, b=b * scale)


def lines(recipe: Recipe) -> list[str]:
    """Return the table for people: every role's numbers, then the forward factors, then what was replaced."""
    factors = multipliers(recipe)
    head = f"{'role':14} {'fan_in':>7} {'m':>6} {'init std':>10} {'lr x':>8} {'decay x':>8} {'eps x':>8}"
    vector = f"1 or {recipe.model.bias_std:g}"
    stds = {r: vector if r.role == "vector" else f"{r.std:.4g}" for r in table(recipe).values()}
    body = [f"{r.role:14} {r.fan_in:7} {r.width:6.4g} {std:>10} {r.lr:8.4g} {r.weight_decay:8.4g} "
            f"{r.eps:8.4g}" for r, std in stds.items()]
    return [head, *body, f"forward: embedding x {factors.embedding:g}, q.k x {factors.attention:.4g}, "
                         f"logits x {factors.output:.4g}", *replaced(recipe)]


def at_width(recipe: Recipe, width: int, kind: str | None = None) -> Recipe:
    """Return the recipe at another width, of the same head size and ratio of filter size, and maybe kind."""
    model = recipe.model
    f = None if model.filter_size is None else model.filter_size * width // model.n_embd
    return replace(recipe, model__n_embd=width, model__head_dim=model.head_size,
                   model__filter_size=f, parametrization__kind=kind or recipe.parametrization.kind)
