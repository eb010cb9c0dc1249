"""Recipe: one typed config, from a YAML file and overrides; all that shapes a run, and nothing else."""
import dataclasses
import difflib
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lab.guide import from_guide

FOLDER = Path(__file__).resolve().parent / "recipes"
ROLES = ("embedding", "position", "attention", "attention_out", "ffn_in", "ffn_out", "readout", "vector")
DURATIONS = ("steps", "tokens", "tokens_per_param", "flops", "epochs")


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """A normal distribution; truncated at a and b (default: two std), which scale with the std."""

    name: Literal["normal", "truncated_normal"] = "normal"
    mean: float = 0.0
    std: float = 0.02
    a: float | None = None
    b: float | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Shape and initialisation. kind: GPT-2's of the literature, or the submission's GPT (speedrun)."""

    kind: Literal["gpt2", "speedrun"] = "gpt2"
    vocab_size: int | None = None  # default: the track's
    n_layer: int = 2
    n_head: int = 2
    head_dim: int | None = None  # instead of n_head: the number of heads follows from the width
    n_embd: int = 64
    filter_size: int | None = None  # hidden size of the MLP; default: 4 n_embd
    activation: Literal["gelu", "relu", "squared_relu"] = "gelu"
    tied: bool = True  # the head is the embedding
    bias: bool = True
    dtype: str = "float32"  # of matrix products
    initializer: Initializer = Initializer()
    embedding_initializer: Initializer | None = None  # default: initializer
    residual_init: Literal["scaled", "plain", "zero"] = "scaled"  # of matrices that write to the residual
    readout_init: Literal["normal", "zero"] = "normal"  # of an untied head

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.n_embd // self.head_dim if self.head_dim else self.n_head


@dataclass(frozen=True, kw_only=True)
class Parametrization:
    """How a model's numbers follow from its width; the words are those of Cerebras' muP guide.

    Standard (sp): they do not. Maximal update (mup): relative to the base widths; see lab/parametrization.py.
    """

    kind: Literal["sp", "mup"] = "sp"
    mup_base_hidden_size: int | None = None  # both or neither
    mup_base_filter_size: int | None = None
    mup_base_head_dim: int | None = None  # default: the model's own, which leaves 1/sqrt(head_dim)
    embeddings_scale: float = 1.0
    output_logits_alpha: float | None = None
    scale_output_logits_by_d: bool = True  # False: by the root of the width
    scale_qk_dot_by_d: bool = False  # attention logits are attention_logits_alpha q.k / head_dim, literally
    attention_logits_alpha: float = 1.0
    adjust_learning_rate: dict[str, float] = field(default_factory=dict)  # replaces the automatic factors
    weight_decay: Literal["constant_product", "unscaled"] = "constant_product"  # lr * weight_decay, or as is
    scale_eps: bool = True  # Adam's eps with its gradients; False as in the guide


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, or Muon for the matrices of the blocks and AdamW for all else."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    lr_factor: dict[str, float] = field(default_factory=dict)  # by role, on top of lr
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled; matrices only, as lr * weight_decay
    max_grad_norm: float | None = None  # global
    momentum: float = 0.95  # Muon's
    newton_schulz_dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A factor as a function of tokens seen; see lab/schedule.py."""

    kind: Literal["constant", "linear", "cosine", "trapezoid", "power", "exponential"] = "constant"
    warmup_tokens: float | None = None  # at most one of the two
    warmup_frac: float | None = None  # of the run's tokens
    start: float = 0.0  # factor at the first token of a warm-up
    final: float = 0.0  # factor at the end: linear, cosine, trapezoid
    end_tokens: float | None = None  # where linear, cosine and trapezoid end; default: the run's tokens
    cooldown_frac: float = 0.3  # trapezoid
    exponent: float = 0.08  # power: (1 + (u - W) / timescale_tokens) ** -exponent
    rate: float = 0.995  # exponential: rate ** (u / timescale_tokens)
    timescale_tokens: float = 57236.0  # one step of hlb-gpt at its scale 1


@dataclass(frozen=True, kw_only=True)
class Schedule(Curve):
    """The curve of every learning rate; others for some roles; and how decay, batch and length change."""

    roles: dict[str, Curve] = field(default_factory=dict)
    weight_decay: Curve | None = None
    batch_tokens: list[tuple[float, int]] = field(default_factory=list)  # [from tokens seen, value], ...
    seq_len: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which tokens, and how they are cut into steps."""

    track: str = "lab"
    seq_len: int = 128
    batch_tokens: int = 4096  # a step
    micro_batch: int | None = None  # sequences of one pass; default: 2^10 tokens or a step


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a run is: exactly one of them."""

    steps: int | None = None
    tokens: float | None = None
    tokens_per_param: float | None = None
    flops: float | None = None  # 6 N + 12 L d T a token, see lab/costs.py
    epochs: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that shapes a training run but its seed."""

    name: str = "unnamed"
    model: Model = Model()
    parametrization: Parametrization = Parametrization()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    data: Data = Data()
    duration: Duration = Duration()  # make_recipe: 100 steps where nothing is said
    validations: int = 10  # spread evenly, besides the one before training


def shipped() -> list[str]:
    """Return the names of the recipes that the lab has."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Return a shipped recipe by name, or one from a YAML file, the muP guide's own too.

    overrides: dotted keys, {"optimizer.lr": 3e-3, ...}.

    Raises ValueError, in one line, naming the closest to an unknown name or key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        close = difflib.get_close_matches(name, shipped(), 1, 0)
        raise ValueError(f"--config {name}: no such recipe or file; the closest is {close[0]}")
    return make_recipe({"name": path.stem, **from_guide(load_yaml(path), path.name)}, overrides, path.name)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping. Raises ValueError, in one line, for anything else."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: found {type(values).__name__}, expected `key: value` lines")
    return values


def make_recipe(values: dict[str, Any], overrides: dict[str, Any] | None = None, where: str = "") -> Recipe:
    """Return the recipe of a nested mapping and dotted overrides; a duration overridden replaces the other.

    Raises ValueError, in one line, for an unknown key, naming the closest, a wrong type or two durations.
    """
    values, overrides = _nested(values), overrides or {}
    if any(key.startswith("duration.") for key in overrides):
        values["duration"] = {}
    for key, value in overrides.items():
        *above, last = key.split(".")
        place = values
        for word in above:
            if not isinstance(place.get(word), dict):
                place[word] = {}
            place = place[word]
        place[last] = value
    values.setdefault("duration", {"steps": 100})
    _check_keys(values, overrides, where)
    parser = _parser()
    try:
        recipe = Recipe(**vars(parser.instantiate(parser.parse_object(values))))
    except (ArgumentError, ValueError, TypeError, KeyError) as error:
        words = " ".join(str(error).replace("Parser key", "").replace("<class", "").split())
        raise ValueError(f"{where or 'recipe'}: {words}") from None
    check(recipe)
    return recipe


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as nested plain values; make_recipe gives it back."""
    return dataclasses.asdict(recipe)


def replace(recipe: Recipe, **overrides: Any) -> Recipe:
    """Return the recipe with some values changed; a dot is written as two underscores."""
    return make_recipe(as_dict(recipe), {key.replace("__", "."): value for key, value in overrides.items()})


def keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Return every key that an override may name, dotted."""
    names = []
    for f in dataclasses.fields(kind):
        inner = dataclass_of(f.type)
        names += keys(inner, f"{prefix}{f.name}.") if inner else [f"{prefix}{f.name}"]
    return names


def check(recipe: Recipe) -> None:
    """Raise ValueError where the values of a recipe cannot go together."""
    given = [name for name in DURATIONS if getattr(recipe.duration, name) is not None]
    if len(given) != 1:
        raise ValueError(f"duration: found {' and '.join(given) or 'nothing'}, expected exactly one of "
                         f"{', '.join(DURATIONS)}")
    if not getattr(recipe.duration, given[0]) > 0:
        raise ValueError(f"duration.{given[0]}: found {getattr(recipe.duration, given[0])}, expected above 0")
    model = recipe.model
    for name in ("n_layer", "n_head", "n_embd"):
        if getattr(model, name) < 1:
            raise ValueError(f"model.{name}: found {getattr(model, name)}, expected at least 1")
    name = "head_dim" if model.head_dim else "n_head"
    if model.n_embd % getattr(model, name):
        raise ValueError(f"model.n_embd: {model.n_embd} is not a multiple of {name} = {getattr(model, name)}")
    for where, roles in (("optimizer.lr_factor", recipe.optimizer.lr_factor),
                         ("schedule.roles", recipe.schedule.roles)):
        for role in roles:
            if role not in ROLES:
                raise ValueError(f"{where}: no role {role!r}; there are {', '.join(ROLES)}")
    for curve in (recipe.schedule, *recipe.schedule.roles.values()):
        if curve.warmup_tokens is not None and curve.warmup_frac is not None:
            raise ValueError("schedule: found warmup_tokens and warmup_frac, expected at most one")


@functools.cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def _nested(value: Any) -> Any:
    return {str(k): _nested(v) for k, v in value.items()} if isinstance(value, dict) else value


def dataclass_of(kind: Any) -> type | None:
    """Return the dataclass that a field holds, also an optional one."""
    for part in (kind, *getattr(kind, "__args__", ())):
        if dataclasses.is_dataclass(part) and getattr(kind, "__origin__", None) is not dict:
            return part
    return None


def _check_keys(values: dict[str, Any], overrides: dict[str, Any], where: str) -> None:
    def walk(values: Any, kind: type, prefix: str) -> None:
        fields = {f.name: f for f in dataclasses.fields(kind)}
        for name, value in values.items():
            key = prefix + name
            if name not in fields:
                known = keys()
                close = difflib.get_close_matches(key, known, 1, 0)
                given = any(name == key or name.startswith(f"{key}.") for name in overrides)
                source = "--override" if given else where or "recipe"
                raise ValueError(f"{source}: unknown key {key}; the closest is {close[0]}")
            inner = dataclass_of(fields[name].type)
            if inner and value is not None and not isinstance(value, dict):
                raise ValueError(f"{where or '--override'}: {key}: found {value!r}, expected keys of its "
                                 f"own: {', '.join(f.name for f in dataclasses.fields(inner))}")
            if inner and value:
                walk(value, inner, f"{key}.")
    walk(values, Recipe, "")
