"""Guide: a GPT config of Cerebras' model zoo, the YAML of the muP guide, as values of a recipe.

Both layouts are known: sections under `trainer:`, and the flat ones of earlier releases. The keys are of
https://docs.cerebras.net/en/latest/wsc/how_to_guides/mup_docs.html.
"""
import math
import sys
from collections.abc import Iterator
from typing import Any

from lab.recipe.schema import unknown

SECTIONS = {  # ours: where a flat file has it, where one with `trainer` has it
    "model": ("model", "trainer.init.model"), "optimizer": ("optimizer", "trainer.init.optimizer"),
    "schedulers": ("", "trainer.init.schedulers"), "precision": ("", "trainer.init.precision"),
    "loop": ("runconfig", "trainer.init.loop"), "data": ("train_input", "trainer.fit.train_dataloader")}
MUP = ("mup_base_hidden_size", "mup_base_filter_size", "embeddings_scale", "output_logits_alpha",
       "scale_output_logits_by_d", "scale_qk_dot_by_d", "attention_logits_alpha")
WORDS = {  # section: {the guide's word: the recipe's key}
    "model": {"hidden_size": "model.n_embd", "num_hidden_layers": "model.n_layer",
              "num_heads": "model.n_head", "filter_size": "model.filter_size",
              "vocab_size": "model.vocab_size", "share_embedding_weights": "model.tied",
              "nonlinearity": "model.activation", "max_position_embeddings": "data.seq_len",
              **{word: f"parametrization.{word}" for word in MUP}},
    "optimizer": {"betas": "optimizer.betas", "eps": "optimizer.eps",
                  "weight_decay": "optimizer.weight_decay", "weight_decay_rate": "optimizer.weight_decay",
                  "max_gradient_norm": "optimizer.max_grad_norm",
                  "adjust_learning_rate": "parametrization.adjust_learning_rate"},
    "precision": {"max_gradient_norm": "optimizer.max_grad_norm"}, "loop": {"max_steps": "duration.steps"}}
READ = {  # more than one key follows from these, or one from several
    "model": ("initializer", "embedding_initializer", "output_layer_initializer", "initializer_range",
              "mixed_precision"),
    "optimizer": ("beta1", "beta2", "learning_rate"), "schedulers": ("schedulers",),
    "precision": ("enabled",), "loop": (), "data": ("batch_size",)}
FIXED = {  # what the lab's GPT-2 and AdamW have; a file that asks for something else is refused
    "model": {"position_embedding_type": "learned", "use_position_embedding": True, "norm_type": "layernorm",
              "attention_type": "scaled_dot_product", "dropout_rate": 0, "embedding_dropout_rate": 0,
              "attention_dropout_rate": 0, "residual_dropout_rate": 0, "layer_norm_epsilon": 1e-5,
              "use_projection_bias_in_attention": True, "use_ffn_bias_in_attention": True,
              "use_ffn_bias": True, "use_bias_in_output": False},
    "optimizer": {"correct_bias": True}, "schedulers": {}, "precision": {}, "loop": {}, "data": {}}
HOST = {  # where and how it runs, and how it is measured: nothing that shapes the training
    "": ("eval_input",), "trainer": ("validate", "validate_all"), "trainer.fit": ("val_dataloader",),
    "trainer.init": ("backend", "checkpoint", "logging", "callbacks", "loggers", "model_dir", "seed"),
    "model": ("name", "model_name", "loss_scaling", "loss_weight", "fp16_type", "use_bfloat16",
              "attention_softmax_fp32", "attention_kernel", "compute_eval_metrics"),
    "optimizer": ("name", "optimizer_type", "log_summaries", "loss_scaling_factor"), "schedulers": (),
    "precision": ("fp16_type", "loss_scaling_factor", "log_loss_scale", "precision_opt_level"),
    "loop": ("eval_frequency", "eval_steps", "checkpoint_steps", "log_steps",
             "save_losses", "save_initial_checkpoint", "enable_distributed", "use_cs_grad_accum",
             "use_appliance_data", "precision_opt_level", "model_dir", "seed", "grad_accum_steps"),
    "data": ("data_processor", "data_dir", "shuffle", "shuffle_seed", "num_workers", "prefetch_factor",
             "persistent_workers", "micro_batch_size", "drop_last")}
NEEDED = (("model", "hidden_size"), ("model", "num_hidden_layers"), ("model", "num_heads"),
          ("model", "max_position_embeddings"), ("loop", "max_steps"), ("data", "batch_size"))
CURVES = {"Linear": "linear", "LinearLR": "linear", "CosineDecay": "cosine", "CosineDecayLR": "cosine"}


def from_guide(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a config of the guide as dotted values of a recipe, on lab_fineweb's data; others as they are.

    The guide's literal rule: weight decay and eps keep their values at every width. Its exact GELU becomes
    the tanh approximation, its 16-bit types bfloat16. One line on stderr names the keys that were ignored.
    Raises ValueError, in one line, for an unknown key, naming the closest, and for what the lab has not.
    """
    model = values.get("model")
    if "trainer" not in values and not (isinstance(model, dict) and "hidden_size" in model):
        return values
    sections, ignored = _sections(values, where)
    flat: dict[str, Any] = {"data.track": "lab_fineweb"}
    for section, found in sections.items():
        for word, value in found.items():
            if word in WORDS.get(section, {}):
                flat[WORDS[section][word]] = value
            elif word in FIXED[section]:
                if value != FIXED[section][word]:
                    raise ValueError(f"{where}: {word}: found {value!r}, the lab's GPT-2 and AdamW have "
                                     f"{FIXED[section][word]!r}")
            elif word in HOST[section]:
                ignored.append(word)
            elif word not in READ[section]:
                known = [f"{section}.{name}" for table in (WORDS, READ, FIXED, HOST)
                         for name in table.get(section, ())]
                raise ValueError(f"{where}: {unknown('key', f'{section}.{word}', known)}")
    for section, word in NEEDED:
        if type(value := sections[section].get(word)) is not int or value < 1:
            raise ValueError(f"{where}: {section}.{word}: found {value!r}, expected a whole number")
    model, optimizer = sections["model"], sections["optimizer"]
    flat["data.batch_tokens"] = sections["data"]["batch_size"] * model["max_position_embeddings"]
    flat["model.dtype"] = "float32"
    if model.get("mixed_precision") or sections["precision"].get("enabled"):
        flat["model.dtype"] = "bfloat16"
    if "beta1" in optimizer or "beta2" in optimizer:
        flat["optimizer.betas"] = [optimizer.get("beta1", 0.9), optimizer.get("beta2", 0.999)]
    rates = sections["schedulers"].get("schedulers", optimizer.get("learning_rate"))
    flat |= _initializers(model, where)
    flat |= _rates(rates, flat["data.batch_tokens"], flat["duration.steps"], where)
    flat |= {"parametrization.weight_decay": "unscaled", "parametrization.scale_eps": False}
    if _has_base(model):
        flat["parametrization.kind"] = "mup"
        flat.setdefault("parametrization.scale_qk_dot_by_d", True)  # the guide's default under muP
    if ignored:
        print(f"{where}: ignored, about the host: {', '.join(dict.fromkeys(ignored))}", file=sys.stderr)
    return flat


def _sections(values: dict[str, Any], where: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the sections of either layout by our names, and the names of those ignored."""
    top = "trainer" if "trainer" in values else ""
    paths = {path: name for name, by_layout in SECTIONS.items() if (path := by_layout[bool(top)])}
    sections: dict[str, Any] = {name: {} for name in SECTIONS}
    ignored: list[str] = []

    def walk(part: dict[str, Any], path: str) -> None:
        for word, value in part.items():
            here = f"{path}.{word}" if path else word
            if here in paths:
                sections[paths[here]] = value or {}
            elif isinstance(value, dict) and any(known.startswith(f"{here}.") for known in paths):
                walk(value, here)
            elif word in HOST.get(path, ()):
                ignored.append(word)
            else:
                raise ValueError(f"{where}: {unknown('key', here, paths)}")

    walk(values, "")
    if sections["schedulers"]:
        sections["schedulers"] = {"schedulers": sections["schedulers"]}
    optimizer = sections["optimizer"]
    if isinstance(optimizer, dict):
        beside = {word: value for word, value in optimizer.items() if word != "AdamW"}
        kind = optimizer.get("optimizer_type") or optimizer.get("name") or next(
            (word for word in optimizer if word not in WORDS["optimizer"]), "nothing")
        if kind != "AdamW":
            raise ValueError(f"{where}: optimizer: found {kind}, the lab takes the guide's AdamW")
        inside = optimizer.get("AdamW") or {}
        if isinstance(inside, dict) and (both := sorted(inside.keys() & beside.keys())):
            raise ValueError(f"{where}: optimizer: {both[0]} stands inside AdamW and beside it; give one")
        sections["optimizer"] = {**inside, **beside} if isinstance(inside, dict) else inside
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{where}: {name}: found {section!r}, expected keys of its own")
    return sections, ignored


def _has_base(model: dict[str, Any]) -> bool:
    return any(model.get(word) is not None for word in ("mup_base_hidden_size", "mup_base_filter_size"))


def _initializers(model: dict[str, Any], where: str) -> dict[str, Any]:
    """Return initializers and what becomes of those that write to the residual stream.

    Under muP the guide scales output_layer_initializer itself, so it must be the initializer's; else it is
    literal: scaled or plain.
    """
    default = {"name": "truncated_normal", "std": model.get("initializer_range", 0.02)}
    inner, outer = (model.get(name) or default for name in ("initializer", "output_layer_initializer"))
    for given in (inner, outer):
        if not isinstance(given, dict) or not isinstance(given.get("std"), float | int):
            raise ValueError(f"{where}: initializer: found {given!r}, expected name, mean, std, a and b")
    plain, scaled = inner["std"], inner["std"] / math.sqrt(2 * model["num_hidden_layers"])
    kinds = {"scaled": plain} if _has_base(model) else {"scaled": scaled, "plain": plain}
    fits = [kind for kind, std in kinds.items() if math.isclose(outer["std"], std, rel_tol=1e-3)]
    if outer is default:
        fits = ["scaled"]
    elif not fits:
        raise ValueError(f"{where}: output_layer_initializer: found std {outer['std']}, expected "
                         f"{' or '.join(f'{std:.6g}' for std in kinds.values())}, by initializer and depth")
    return {"model.initializer": inner, "model.residual_init": fits[0],
            "model.embedding_initializer": model.get("embedding_initializer") or default}


def _rates(given: Any, batch_tokens: int, steps: int, where: str) -> dict[str, Any]:
    """Return the learning rate and its curve from a number, or from a warm-up and what follows it."""
    if isinstance(given, float | int):
        return {"optimizer.lr": given}
    parts = list(_parts(given))
    warmup, curve = parts if len(parts) == 2 else ({}, parts[0] if len(parts) == 1 else {})
    kind = CURVES.get(curve.get("scheduler"))
    if not kind or warmup and CURVES.get(warmup["scheduler"]) != "linear":
        found = ", ".join(str(part["scheduler"]) for part in parts) or "nothing"
        raise ValueError(f"{where}: schedulers: found {found}; expected one of {', '.join(CURVES)}, after a "
                         f"linear warm-up or none")
    for part in parts:
        for word in ("initial_learning_rate", "end_learning_rate", "total_iters"):
            least = 0 if part is warmup or word == "end_learning_rate" else 1e-30
            if not isinstance(part.get(word), float | int) or part[word] < least:
                raise ValueError(f"{where}: schedulers: {word}: found {part.get(word)!r}, expected a number"
                                 f"{' above 0' if least else ''}")
    peak, length = curve["initial_learning_rate"], sum(part["total_iters"] for part in parts)
    if warmup and warmup["end_learning_rate"] != peak:
        raise ValueError(f"{where}: schedulers: the warm-up ends at {warmup['end_learning_rate']}, what "
                         f"follows begins at {peak}")
    return {"optimizer.lr": peak, "schedule.kind": kind, "schedule.final": curve["end_learning_rate"] / peak,
            "schedule.start": warmup.get("initial_learning_rate", 0) / peak,
            "schedule.warmup_tokens": warmup.get("total_iters", 0) * batch_tokens,
            "schedule.end_tokens": None if length == steps else length * batch_tokens}


def _parts(given: Any) -> Iterator[dict[str, Any]]:
    """Yield the curves of either layout's schedulers in turn, each with its kind as `scheduler`."""
    for part in given if isinstance(given, list) else [given]:
        if not isinstance(part, dict):
            continue
        if "scheduler" in part:
            yield {"total_iters": part.get("steps"), **part, "scheduler": str(part["scheduler"])}
        for kind, values in part.items() if "scheduler" not in part else ():
            inner = values if isinstance(values, dict) else {}
            if kind == "SequentialLR":
                yield from _parts(inner.get("schedulers"))
            else:
                yield {**inner, "scheduler": kind}
