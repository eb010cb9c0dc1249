"""What a recipe costs, in closed form, before anything is built: parameters, bytes, FLOPs, steps."""
import math
from functools import cache
from typing import NamedTuple

from harness.shards import read_shard
from harness.track import ROOT, Track, load_tracks
from lab.recipe.schedule import stairs
from lab.recipe.schema import Recipe


class Parameters(NamedTuple):
    """Numbers of parameters: entries of matrices (embedding, positions, head too) and of vectors."""

    matrices: int
    vectors: int

    @property
    def total(self) -> int:
        """All of them; a tied head counts once."""
        return self.matrices + self.vectors


class Stretch(NamedTuple):
    """Steps in a row of one size: tokens seen before, how many, the tokens of each, their sequence length."""

    seen: int
    steps: int
    tokens: int
    seq_len: int


def parameters(recipe: Recipe) -> Parameters:
    """Return the numbers of parameters of a recipe's model, equal to those of the built one."""
    model, d, L = recipe.model, recipe.model.n_embd, recipe.model.n_layer
    f, V = model.d_ff, vocab_size(recipe)
    matrices = V * d + L * (4 * d * d + 2 * d * f)
    if model.kind == "latent":  # expand [2 d / 8 + 2 f, d], project [d, f]; a slope and a gain a layer
        return Parameters(2 * V * d + L * (2 * model.head_size + 3 * f) * d, L * (d + 1) + d)
    if model.kind != "gpt2":  # of a submission this is a guess: what it really has stands in the log
        return Parameters(matrices + V * d, 0)
    matrices += recipe.data.seq_len * d + (0 if model.tied else V * d)
    norms = (2 * L + 1) * d * (2 if model.bias else 1)
    biases = L * (5 * d + f) if model.bias else 0
    return Parameters(matrices, norms + biases)


def vocab_size(recipe: Recipe) -> int:
    """Return the number of token ids that a recipe's model knows."""
    return recipe.model.vocab_size or track_of(recipe).vocab_size


def track_of(recipe: Recipe) -> Track:
    """Return the track of a recipe's data. Raises ValueError for an unknown one."""
    tracks = _tracks()
    if recipe.data.track not in tracks:
        raise ValueError(f"data.track: no track {recipe.data.track!r}; there are {', '.join(tracks)}")
    return tracks[recipe.data.track]


_tracks = cache(load_tracks)


def flops_per_token(recipe: Recipe, seq_len: int | None = None) -> int:
    """Return 6 N + 12 L d T: training FLOPs a token, N the entries of all matrices; latent has 6 L (q + v) T.

    Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361), attention as in PaLM's appendix B; N counts the
    embedding although it is only looked up, which is how the budgets of the literature were counted here.
    """
    T, model = seq_len or recipe.data.seq_len, recipe.model
    channels = model.head_size + model.d_ff // 2 if model.kind == "latent" else 2 * model.n_embd
    return 6 * parameters(recipe).matrices + 6 * model.n_layer * channels * T


def parameter_bytes(recipe: Recipe) -> int:
    """Return the size of the model's float32 weights in bytes."""
    return 4 * parameters(recipe).total


def micro_batch(recipe: Recipe) -> int:
    """Return the sequences of one pass: the recipe's, or as many as make 2^10 tokens (a CPU's cache)."""
    if recipe.data.micro_batch:
        return recipe.data.micro_batch
    smallest = min([recipe.data.batch_tokens, *(value for _, value in recipe.schedule.batch_tokens)])
    rows = max(1, smallest // recipe.data.seq_len)
    while rows > 1 and rows * recipe.data.seq_len > 2**10 and rows % 2 == 0:
        rows //= 2
    return rows


def stretches(recipe: Recipe) -> list[Stretch]:
    """Return a run's steps, those of one size together: the whole steps that fit into its duration.

    Raises ValueError where not even one fits.
    """
    planned: list[Stretch] = []
    tokens, most = asked_tokens(recipe), recipe.duration.steps or math.inf
    batches, lengths, seen = recipe.schedule.batch_tokens, recipe.schedule.seq_len, 0
    while True:
        size = stairs(seen, batches, recipe.data.batch_tokens)
        borders = [begin for begin, _ in [*batches, *lengths] if begin > seen]
        limits = [most, *(-((seen - border) // size) for border in borders)]  # a step may cross a border
        if tokens < math.inf:
            limits.append((tokens - seen) // size)
        if (count := int(min(limits))) < 1:
            break
        planned.append(Stretch(seen, count, size, stairs(seen, lengths, recipe.data.seq_len)))
        seen, most = seen + count * size, most - count
    if not planned:
        raise ValueError(f"duration: {tokens:.0f} tokens are less than one step of "
                         f"{recipe.data.batch_tokens}; make the run longer or its steps smaller")
    return planned


def asked_tokens(recipe: Recipe) -> float:
    """Return the tokens that the recipe's duration asks for; inf where it asks for steps."""
    duration = recipe.duration
    if duration.tokens_per_param is not None:
        return duration.tokens_per_param * parameters(recipe).total
    if duration.flops is not None:
        return duration.flops / flops_per_token(recipe)
    if duration.epochs is not None:
        return duration.epochs * dataset_tokens(track_of(recipe))
    return math.inf if duration.tokens is None else duration.tokens


def steps(recipe: Recipe) -> list[Stretch]:
    """Return every step of a run."""
    return [Stretch(s.seen + i * s.tokens, 1, s.tokens, s.seq_len)
            for s in stretches(recipe) for i in range(s.steps)]


def curve_tokens(recipe: Recipe) -> float:
    """Return the tokens over which schedules run: those asked for; of a duration in steps, those taken."""
    asked = asked_tokens(recipe)
    return total_tokens(recipe) if asked == math.inf else asked


def total_tokens(recipe: Recipe) -> int:
    """Return the tokens that a run takes."""
    return sum(stretch.steps * stretch.tokens for stretch in stretches(recipe))


def total_flops(recipe: Recipe) -> float:
    """Return the training FLOPs of a run, each step at its own sequence length."""
    return float(sum(s.steps * s.tokens * flops_per_token(recipe, s.seq_len) for s in stretches(recipe)))


def dataset_tokens(track: Track) -> int:
    """Return the training tokens of a track's shards. Raises ValueError where they are not here."""
    return _count_tokens(track.data, track.train_files, track.fetch)


@cache
def _count_tokens(folder: str, files: str, fetch: str) -> int:
    shards = sorted((ROOT / folder).glob(files))
    if not shards:
        raise ValueError(f"{folder}: no shards {files}; get them with `{fetch}`")
    return sum(len(read_shard(path)) for path in shards)
