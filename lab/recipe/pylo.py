"""PyLO: the words of its language-model page, `--config config --override optimizer_name VeLO ...`.

Its driver: https://github.com/Belilovsky-Lab/pylo_examples; docs/lab.md has what contradicts itself there.
"""
import re
import sys
from collections.abc import Iterator
from typing import Any

from lab.recipe.schema import Recipe, unknown

CONFIG, GPUS = "config", 8  # the module that its commands name, and where each of them runs
WORDS = {  # PyLO's word: its default there, or what the lab has always; ours that follow from it
    "optimizer_name": ("Adam", "optimizer.name"), "init_lr": (6e-4, "optimizer.lr"), "suffix": ("", "name"),
    "model_name": ("gpt2_tiny", "model.n_layer model.n_head model.n_embd"), "gas": (4, "data.batch_tokens"),
    "batch_size": (32, "data.batch_tokens data.micro_batch"), "iters_max": (5000, "duration.steps"),
    "use_lr_scheduler": (False, "schedule.kind schedule.final"), "seed": (42, "--seed"),
    "warmup_ratio": (0.05, "schedule.warmup_frac"), "use_mixed_precision": (True, "model.dtype"),
    "OPTIM.weight_decay": (0.0, "optimizer.weight_decay"),
    "OPTIM.AdamW.weight_decay": (0.01, "optimizer.weight_decay"),
    "OPTIM.max_grad_norm": (None, "optimizer.max_grad_norm"),
    "MODEL.GPT2.block_size": (1024, "data.seq_len data.batch_tokens"),
    "MODEL.GPT2.attn_type": ("separate_kqv", ""), "MODEL.GPT2.embd_pdrop": (0.0, ""),
    "MODEL.GPT2.resid_pdrop": (0.0, ""), "MODEL.GPT2.attn_pdrop": (0.0, ""),
    "dataset_name": ("HuggingFaceFW/fineweb-edu", ""),
    **dict.fromkeys(("compile", "use_wandb", "wandb_project", "output_dir", "nbatch_log", "num_workers",
                     "prefetch_factor"), (None, ""))}  # about the host
CHOICES = {
    "optimizer_name": {"AdamW": "adamw", "MuLO_naive": "small_fc", "MuLO_cuda": "small_fc", "VeLO": "velo"},
    "model_name": {  # layers, heads, width
        "gpt2_tiny": (8, 4, 120), "gpt2": (16, 12, 768), "gpt2_small": (12, 12, 768),
        "gpt2_medium": (24, 16, 1024), "gpt2_large": (36, 20, 1280), "gpt2_xlarge": (48, 25, 1600),
        "gpt2_410m_w1024_d24_h16": (24, 16, 1024), "gpt2_1b_w2048_d16_h32": (16, 32, 2048)}}


def split(overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the overrides outside of a recipe's sections, PyLO's, and those inside, which are ours."""
    sections = Recipe.__dataclass_fields__
    ours = {key: value for key, value in overrides.items() if key.partition(".")[0] in sections}
    return {key: value for key, value in overrides.items() if key not in ours}, ours


def instead(word: str) -> str:
    """Return what to give instead of a word of PyLO's, where another recipe is overridden; "" for others."""
    if word not in WORDS:
        return ""
    ours = WORDS[word][1].replace(" ", ", ")
    return f"{word} is PyLO's{ours and f', here {ours}'}; its words load together, with --config {CONFIG}"


def from_pylo(given: dict[str, Any]) -> dict[str, Any]:
    """Return PyLO's words as dotted values of a recipe, from the one that ships for the optimizer.

    Lines on stderr say what each word became. Raises ValueError, in one line, for an unknown word, naming the
    closest, for a value of another type than there, and for what the lab has not.
    """
    if strange := [word for word in given if word not in WORDS]:
        raise ValueError(f"--override: {unknown('word', strange[0], WORDS)}")
    found = {word: _checked(word, given.get(word, default)) for word, (default, _) in WORDS.items()}
    name, model, seq_len = found["optimizer_name"], found["model_name"], found["MODEL.GPT2.block_size"]
    own = name == "AdamW" and "OPTIM.weight_decay" not in given  # there AdamW hears no other word
    values = {"from": f"pylo_124m_{name.split('_')[0].lower()}", "name": f"{model}_{name}{found['suffix']}",
              **dict(zip(WORDS["model_name"][1].split(), CHOICES["model_name"][model])),
              "data.seq_len": seq_len, "data.micro_batch": found["batch_size"],
              "data.batch_tokens": found["gas"] * found["batch_size"] * seq_len * GPUS,
              "model.dtype": "bfloat16" if found["use_mixed_precision"] else "float32",
              "optimizer.name": CHOICES["optimizer_name"][name], "optimizer.lr": found["init_lr"],
              "optimizer.weight_decay": found[f"OPTIM.{'AdamW.' if own else ''}weight_decay"],
              "optimizer.max_grad_norm": found["OPTIM.max_grad_norm"], "duration.steps": found["iters_max"],
              "schedule.kind": "cosine" if found["use_lr_scheduler"] else "constant"}
    if name.startswith("MuLO"):
        values["model.embedding_initializer.std"] = values["model.n_embd"] ** -0.5
    if found["use_lr_scheduler"]:
        values |= {"schedule.final": 0.1, "schedule.warmup_frac": found["warmup_ratio"]}
    try:
        float(decay := values["optimizer.weight_decay"])
    except (TypeError, ValueError):
        raise ValueError(f"--override OPTIM.weight_decay: found {decay!r}, expected a number") from None
    for line in _lines(given, {**values, "--seed": found["seed"]}):
        print(f"--config {CONFIG}: {line}", file=sys.stderr)
    return values


def _checked(word: str, value: Any) -> Any:
    """Return a word's value, one of those that the lab has; most are checked as values of a recipe."""
    default, ours = WORDS[word]
    choices = CHOICES.get(word, () if ours or default is None else (default,))
    if choices and value not in [*choices]:
        raise ValueError(f"--override {word}: found {value!r}, expected {' or '.join(map(str, choices))}")
    if type(default) in (bool, int) and type(value) is not type(default):
        raise ValueError(f"--override {word}: found {value!r}, expected such as {default}")
    return value


def _lines(given: dict[str, Any], values: dict[str, Any]) -> Iterator[str]:
    """Yield what each word became, what the lab has otherwise than PyLO, and where a suffix errs."""
    for word, value in given.items():
        became = [f"{ours} {values[ours]}" for ours in WORDS[word][1].split() if ours in values]
        yield f"{word} {value} -> {', '.join(became) or 'nothing here'}"
    fixed = [f"{word} {always}" for word, (always, ours) in WORDS.items() if not ours and always is not None]
    yield f"a step is one of {GPUS} GPUs; all else as in {values['from']}, always with {', '.join(fixed)}"
    suffix, tokens = str(given.get("suffix")), values["data.batch_tokens"] * values["duration.steps"]
    size, decay = re.search(r"(\d+)B_tokens", suffix), re.search(r"wd[_=](\d+\.?\d*(?:e-?\d+)?)", suffix)
    if (size and abs(tokens - int(size[1]) * 1e9) > 0.1 * tokens
            or decay and float(decay[1]) != float(values["optimizer.weight_decay"])
            or "sched" in suffix and values["schedule.kind"] == "constant"):
        yield (f"the suffix says otherwise than the words, which count: {tokens:.3g} tokens, weight decay "
               f"{values['optimizer.weight_decay']}, rate {values['schedule.kind']}")
