"""Schema: the types of a recipe, section by section; what a value means stands beside it."""
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from lab.optimizers import Optimizer, section
from lab.types import Below1, NotNegative, Positive, PositiveInt, Share


def unknown(what: str, key: object, known: Iterable[str]) -> ValueError:
    """Return the error of a name that is none of those known: it names the closest."""
    return ValueError(f"unknown {what} {key}; the closest is {get_close_matches(str(key), known, 1, 0)[0]}")


DURATIONS = ("steps", "tokens", "tokens_per_param", "flops", "epochs")


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """A normal distribution; truncated at a and b (default: two std), which scale with the std."""

    name: Literal["normal", "truncated_normal"] = "normal"
    mean: float = 0.0
    std: Positive = 0.02
    a: float | None = None
    b: float | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Shape and initialisation. kind: GPT-2's of the literature, the public speedrun's of 2024-11-03,
    hlb-gpt's (latent), or whatever GPT(hp) stands in train_gpt2.py (submission), which starts as it likes."""

    kind: Literal["gpt2", "speedrun", "latent", "submission"] = "gpt2"
    scale: Positive | None = None  # hlb-gpt's: fills what a recipe leaves open, see lab/recipe/hlb.py
    vocab_size: PositiveInt | None = None  # default: the track's
    n_layer: PositiveInt = 2
    n_head: PositiveInt = 2  # latent has one head: its queries and keys are of n_embd / n_head channels
    head_dim: PositiveInt | None = None  # instead of n_head: the number of heads follows from the width
    n_embd: PositiveInt = 64
    filter_size: PositiveInt | None = None  # hidden size of the MLP; default: 4 n_embd, latent 2 n_embd
    activation: Literal["gelu", "relu", "squared_relu"] = "gelu"
    tied: bool = True  # the head is the embedding
    bias: bool = True
    dtype: str = "float32"  # of matrix products
    initializer: Initializer = Initializer()
    embedding_initializer: Initializer | None = None  # default: initializer
    # of matrices that write to the residual: x 1 / sqrt(2 L), 1, 0, hlb-gpt's 2 / L; of an untied head
    residual_init: Literal["scaled", "plain", "zero", "per_layer"] = "scaled"
    readout_init: Literal["normal", "zero", "double"] = "normal"
    bias_std: NotNegative = 0.0  # of biases but the norms'

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.n_embd // self.head_dim if self.head_dim else self.n_head

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.n_embd // self.heads

    @property
    def d_ff(self) -> int:
        """Hidden size of the MLP."""
        return self.filter_size or (2 if self.kind == "latent" else 4) * self.n_embd


@dataclass(frozen=True, kw_only=True)
class Parametrization:
    """How a model's numbers follow from its width; the words are those of Cerebras' muP guide.

    Standard (sp): they do not. Maximal update (mup): relative to the base widths; see lab/parametrization.py.
    """

    kind: Literal["sp", "mup"] = "sp"
    mup_base_hidden_size: PositiveInt | None = None  # both or neither
    mup_base_filter_size: PositiveInt | None = None
    mup_base_head_dim: PositiveInt | None = None  # default: the model's own, which leaves 1/sqrt(head_dim)
    embeddings_scale: Positive = 1.0
    output_logits_alpha: Positive | None = None
    scale_output_logits_by_d: bool = True  # False: by the root of the width
    scale_qk_dot_by_d: bool = False  # attention logits are attention_logits_alpha q.k / head_dim, literally
    attention_logits_alpha: Positive = 1.0
    adjust_learning_rate: dict[str, float] = field(default_factory=dict)  # replaces the automatic factors
    weight_decay: Literal["constant_product", "unscaled"] = "constant_product"  # lr * weight_decay, or as is
    scale_eps: bool = True  # Adam's eps with its gradients; False as in the guide


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A factor as a function of tokens seen; see lab/recipe/schedule.py."""

    kind: Literal["constant", "linear", "cosine", "trapezoid", "power", "exponential"] = "constant"
    warmup_tokens: NotNegative | None = None  # at most one of the two
    warmup_frac: Share | None = None  # of the run's tokens
    start: NotNegative = 0.0  # factor at the first token of a warm-up
    final: NotNegative = 0.0  # factor at the end: linear, cosine, trapezoid
    end_tokens: NotNegative | None = None  # where linear, cosine and trapezoid end; default: the run's tokens
    cooldown_frac: Share = 0.3  # trapezoid
    exponent: NotNegative = 0.08  # power: (1 + (u - W) / timescale_tokens) ** -exponent
    timescale_tokens: Positive = 57236.0  # a step of hlb-gpt at scale 1; exponential: x e ** -exponent each


@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """Passes of data.batch_tokens in a step: more, the higher the gradient's norm is over a target."""

    exponent: float | None = None  # target: (step x N ln N) ** exponent; default: -0.677 ln(N) ** -0.2
    every: PositiveInt = 5  # steps between looks at the norm
    gain: Positive = 0.5  # of a look
    most: PositiveInt = 16  # the cap


@dataclass(frozen=True, kw_only=True)
class Schedule(Curve):
    """The curve of every learning rate; others for some roles; and how decay, batch and length change."""

    roles: dict[str, Curve] = field(default_factory=dict)
    weight_decay: Curve | None = None
    weight_decay_loss_base: Positive | None = None  # decay x base ** -training loss of the step, too
    accumulation: Accumulation | None = None
    # stairs: [from tokens seen, value], ...
    batch_tokens: list[tuple[float, PositiveInt]] = field(default_factory=list)
    seq_len: list[tuple[float, PositiveInt]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters whose name has a pattern (a regular expression): factors and a curve of their own."""

    pattern: str
    lr_factor: NotNegative = 1.0
    weight_decay: NotNegative = 1.0  # a factor, too
    betas: tuple[Below1, Below1] | None = None  # default: the optimizer's
    schedule: Curve | None = None  # default: that of the role


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which tokens, and how they are cut into steps."""

    track: str = "lab"
    seq_len: PositiveInt = 128
    batch_tokens: PositiveInt = 4096  # a step
    batch_sequences: PositiveInt | None = None  # instead: batch_tokens is then as many times seq_len
    micro_batch: PositiveInt | None = None  # sequences of one pass; default: 2^10 tokens or a step
    memory_gb: NotNegative = 40.0  # of the device whose capacity model.scale fills in; 0: a CPU's

    def __post_init__(self) -> None:
        if self.batch_sequences:
            object.__setattr__(self, "batch_tokens", self.batch_sequences * self.seq_len)


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a run is: exactly one of them."""

    steps: PositiveInt | None = None
    tokens: Positive | None = None
    tokens_per_param: Positive | None = None
    flops: Positive | None = None  # 6 N + 12 L d T a token, see lab/recipe/costs.py
    epochs: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that shapes a training run but its seed."""

    name: str = "unnamed"
    model: Model = Model()
    parametrization: Parametrization = Parametrization()
    optimizer: Optimizer = field(default_factory=lambda: section()())
    schedule: Schedule = Schedule()
    groups: list[Group] = field(default_factory=list)  # a parameter is in the first whose pattern it has
    data: Data = Data()
    duration: Duration = Duration()  # make_recipe: 100 steps where nothing is said
    validations: PositiveInt = 10  # spread evenly, besides the one before training
