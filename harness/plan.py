"""What a run will do, settled before it starts: options, hyperparameters, track, data, how a step divides."""
import ast
import dataclasses
import difflib
import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.against import Against
from harness.track import ROOT, Data, Track, find_data, load_tracks
from harness.vocabulary import token_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Launch options: place, speed and words of a run, never its training. --help shows the comments."""

    track: str | None = None  # row of harness/tracks.toml; default: fineweb on a GPU, sample without
    device: str | None = None  # cpu or cuda; default: cuda where torch sees a GPU
    device_batch_size: int | None = None  # sequences of a forward pass, where a track reduces `fast`
    compile: bool | None = None  # compile the model; default: on a GPU
    data: str | None = None  # folder of the shards; default: the track's
    resume: str | None = None  # folder of checkpoints to go on from
    checkpoint_every: int | None = None  # steps between checkpoints; default: none are written
    seed: int = 0  # of the weights, and of whatever a submission draws
    stop_at_step: int | None = None  # leave after this step; such a run is no record
    timeout: int = 600  # seconds that a rank which stands still is waited for
    log_every: int | None = None  # steps between train lines shown; default: 40 lines in all, or a bar
    against: str | None = None  # log of a run to show the differences to
    weights: bool | None = None  # keep them beside the log; default: where the track has a target
    name: str | None = None  # of the run, in its log: up to 60 characters
    note: str | None = None  # on the run, in its log: up to 200 characters


class Plan(NamedTuple):
    """Everything about a run that is known before the model is built."""

    options: Options
    track: Track
    hp: Any  # the submission's Hyperparameters
    overrides: dict[str, Any]
    data: Data
    vocabulary: Path
    tokens: int  # that the run takes
    rows: int  # sequences of one forward and backward pass
    device: str
    against: Against | None


def parse_flags(argv: list[str]) -> dict[str, str]:
    """Return {"name": "value"} from --name value and --name=value. Raises ValueError for anything else."""
    flags, words = {}, list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise ValueError(f"found {word!r} where a flag was expected; flags are --name value")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"{name} has no value; flags are --name value")
            value = words.pop(0)
        flags[name[2:]] = value
    return flags


def typed(name: str, text: str, like: Any, kind: str) -> Any:
    """Return a flag's text as a value of like's type; None has that which kind names ('bool | None', ...)."""
    kind = kind if like is None else type(like).__name__
    if "str" in kind:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        value = text
    if "float" in kind and type(value) is int:
        value = float(value)
    if "int" in kind and type(value) is float and value.is_integer() and "float" not in kind:
        value = int(value)  # 1e6
    if isinstance(like, (tuple, list)):
        fits = isinstance(value, (tuple, list)) and len(value) == len(like)
    else:
        fits = type(value).__name__ in kind.replace(" ", "").split("|") or (value is None and "None" in kind)
    if not fits:
        raise ValueError(f"--{name} {text}: expected {kind}")
    return tuple(value) if isinstance(like, tuple) else value


def sort_flags(flags: dict[str, str], hyperparameters: Any) -> tuple[Options, dict[str, Any]]:
    """Return launch options and hyperparameter overrides; ValueError names the closest to an unknown."""
    options, fields = ({f.name: inspect.formatannotation(f.type).strip("'") for f in dataclasses.fields(of)}
                       for of in (Options, hyperparameters))
    chosen, overrides = {}, {}
    for name, text in flags.items():
        if name in options:
            chosen[name] = typed(name, text, None, options[name])
        elif name in fields:
            overrides[name] = typed(name, text, getattr(hyperparameters, name), fields[name])
        else:
            close = difflib.get_close_matches(name, [*options, *fields], 1, 0)
            raise ValueError(f"unknown flag --{name}; the closest is --{close[0]}")
    return Options(**chosen), overrides


def stages(hp: Any) -> list[tuple[int, int]]:
    """Return (step, tokens) for each batch of a run: from that step on a step takes so many tokens.

    The first is (0, hp.batch_tokens), the others stand in hp.batch_stages where a submission has that field.
    They are data, so that all are checked before launch and a reader of the log can add them up.
    """
    return [(0, hp.batch_tokens), *getattr(hp, "batch_stages", ())]


def run_tokens(hp: Any) -> int:
    """Return the tokens that a run takes: hp.train_tokens where there is such a field, else its steps'."""
    borders = [min(first, hp.num_iterations) for first, _ in stages(hp)] + [hp.num_iterations]
    planned = sum((end - begin) * n for (_, n), begin, end in zip(stages(hp), borders, borders[1:]))
    return getattr(hp, "train_tokens", planned)


def world_sizes(hp: Any, track: Track, rows: int, most: int = 64) -> list[int]:
    """Return the world sizes that divide each step evenly; where reduction is `exact`, powers of two only."""
    passes = math.gcd(*(tokens // (rows * hp.seq_len) for _, tokens in stages(hp)))
    sizes = [n for n in range(1, most + 1) if passes % n == 0]
    return [n for n in sizes if n & (n - 1) == 0] if track.reduction == "exact" else sizes


def check_batch(hp: Any, track: Track, device_batch_size: int | None, world_size: int | None) -> int:
    """Return the sequences of one forward pass, after checking that steps, ranks and validation divide."""
    for name in ("num_iterations", "batch_tokens", "micro_batch", "seq_len", "val_every", "epochs"):
        if not isinstance(value := getattr(hp, name, None), int) or value < 1:
            raise ValueError(f"{name}={value}, expected a field of Hyperparameters, an int of at least 1")
    if (dtype := getattr(hp, "dtype", "float32")) not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={dtype}, expected float32, bfloat16 or float16")
    firsts, tokens = zip(*stages(hp))
    if list(firsts) != sorted(set(firsts)) or min(tokens) < 1:
        raise ValueError(f"batch_stages={hp.batch_stages}, expected (step, tokens) with steps rising from 1")
    if track.reduction == "exact" and device_batch_size not in (None, hp.micro_batch):
        raise ValueError(f"--device_batch_size {device_batch_size}: track {track.name} reduces exactly, "
                         f"in micro-batches of {hp.micro_batch} sequences; leave the flag out")
    rows, unit = device_batch_size or hp.micro_batch, hp.micro_batch * hp.seq_len
    for first, tokens in stages(hp):
        batch = f"batch_tokens={tokens}" if not first else f"batch_stages: {tokens} from step {first} on"
        if tokens % unit:
            raise ValueError(f"{batch} is not a multiple of micro_batch*seq_len = {hp.micro_batch}*"
                             f"{hp.seq_len} = {unit}; choose a micro_batch that divides "
                             f"{tokens / hp.seq_len:g}")
        sequences = tokens // hp.seq_len
        if sequences % rows:
            divisors = [n for n in range(1, sequences + 1) if sequences % n == 0]
            raise ValueError(f"--device_batch_size {rows} does not divide the {sequences} sequences of a "
                             f"step; use {', '.join(map(str, divisors))}")
    sizes = world_sizes(hp, track, rows, max(64, world_size or 1))
    if world_size is not None and world_size not in sizes:
        batches = ", ".join(str(tokens) for _, tokens in stages(hp))
        raise ValueError(f"batch_tokens={batches} does not divide over world_size={world_size} ranks "
                         f"of {rows} sequences of {hp.seq_len}; use {', '.join(map(str, sizes))} ranks")
    name = "seq_len" if getattr(hp, "val_seq_len", None) is None else "val_seq_len"
    if (length := getattr(hp, name)) < 1 or track.val_piece % length:
        raise ValueError(f"{name}={length} does not divide the track's validation piece of "
                         f"{track.val_piece} tokens; use a power of two up to {track.val_piece}")
    return rows


def choose_track(argv: list[str], cuda: bool) -> tuple[Track, str]:
    """Return the track and the device that flags ask for; without any, fineweb on a GPU, sample on a CPU."""
    flags, tracks = parse_flags(argv), load_tracks()
    device = flags.get("device", "cuda" if cuda else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not cuda):
        expected = "cpu or cuda" if cuda else "cpu; there is no CUDA device"
        raise ValueError(f"--device {device}: expected {expected}")
    name = flags.get("track", "fineweb" if device == "cuda" else "sample")
    if name not in tracks:
        raise ValueError(f"--track {name}: no such track; there are {', '.join(tracks)}")
    return tracks[name], device


def make_plan(recipes: dict[str, Any], argv: list[str], world_size: int | None, cuda: bool,
              rehash: bool = False) -> Plan:
    """Return the plan of a run, all that can be checked before it checked: flags, batch, shards.

    world_size None: not settled yet. cuda: whether there is a GPU. rehash: whether the shards of a run that
    may be a record are hashed again whatever the cache says. Raises ValueError, in one line.
    """
    track, device = choose_track(argv, cuda)
    if track.recipe not in recipes:
        raise ValueError(f"track {track.name} trains the recipe {track.recipe!r}; the submission has "
                         f"{', '.join(recipes)}")
    options, overrides = sort_flags(parse_flags(argv), recipes[track.recipe])
    for name in ("device_batch_size", "checkpoint_every", "stop_at_step", "log_every", "timeout", "seed"):
        least, most = 0 if name == "seed" else 1, 10**6 if name == "timeout" else 2**63 - 1
        if (value := getattr(options, name)) is not None and not least <= value <= most:
            raise ValueError(f"--{name} {value}: expected at least {least}, at most {most}")
    for name, most in (("name", 60), ("note", 200)):
        text = getattr(options, name)
        if text is not None and not (text.isprintable() and text.strip() and len(text) <= most):
            raise ValueError(f"--{name} {text[:most]!r}: expected a line of 1 to {most} printable characters")
    hp = dataclasses.replace(recipes[track.recipe], **overrides)
    rows = check_batch(hp, track, options.device_batch_size, world_size)
    folder = Path(options.data).expanduser() if options.data else ROOT / track.data
    if options.resume and not Path(options.resume).is_dir():
        raise ValueError(f"--resume {options.resume}: no such folder of checkpoints")
    rehash = rehash and track.target is not None and not overrides
    tokens = run_tokens(hp)
    data = find_data(track, folder, tokens, hp.epochs, rehash)
    against = Against(Path(options.against).expanduser()) if options.against else None
    own = folder / "vocab.bpe"
    vocabulary = own if own.is_file() else ROOT / track.vocabulary
    token_bytes(vocabulary, track.vocab_size)  # raises where it does not fit
    return Plan(options, track, hp, overrides, data, vocabulary, tokens, rows, device, against)
