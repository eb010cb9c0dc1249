"""Writes a run's model into a folder that needs nothing of this project: weights, code, tokenizer, README.

No code of the log runs. Of a submission's script the folder gets what GPT and RECIPES need; a lab model of
kind gpt2 becomes the one that transformers loads.
"""
import argparse
import ast
import hashlib
import json
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from records.tools.again import launch as launches
from records.tools.again.generate import WEIGHTS
from records.tools.again.judge import weights_path
from records.tools.read.extract import write_files
from records.tools.read.log import Log, read_bytes
from records.tools.read.logs import LOG, load_runs
from records.tools.read.run import Run
from records.tools.read.tracks import own_row
from records.tools.read.values import ReadError, cell, json_text, shown

ARGUMENTS = {
    "log": LOG,
    "folder": {"metavar": "DIR", "type": Path, "help": "empty, or not there yet"},
    "--weights": WEIGHTS,
}
MODEL = '''"""A trained language model: python model.py "In 1856, Abraham Lincoln" writes what follows."""
import dataclasses
import json
import sys
from pathlib import Path

import torch

import gpt
from data.bpe import encoder
from harness.vocabulary import decode, token_bytes

HERE = Path(__file__).resolve().parent
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool}


@torch.no_grad()
def load(folder=HERE):
    """Return the model with its weights, and config.json."""
    config = json.loads((folder / "config.json").read_text())
    hp = config
    if "recipe" in config:
        changes = {k: tuple(v) if isinstance(v, list) else v for k, v in config["overrides"].items()}
        hp = dataclasses.replace(gpt.RECIPES[config["recipe"]], **changes)
    model, data = gpt.GPT(hp), bytearray((folder / "model.safetensors").read_bytes())
    state, start = model.state_dict(), 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and 0 not in entry["shape"]:
            begin, end = (start + offset for offset in entry["data_offsets"])
            value = torch.frombuffer(data[begin:end], dtype=DTYPES[entry["dtype"]])
            state[name].copy_(value.view(entry["shape"]))
    return model.eval(), config


@torch.no_grad()
def main(prompt, tokens=100, temperature=0.8, top_k=50):
    """Print a prompt and what follows."""
    (model, config), table = load(), token_bytes(HERE / "merges.txt")
    ids, T = [len(table) - 1, *encoder(HERE / "merges.txt")(prompt)], config["n_positions"]
    for _ in range(tokens):
        window, x = ids[-T:], torch.zeros(1, T, dtype=torch.int64)  # what stands behind changes nothing
        x[0, :len(window)] = torch.tensor(window)
        logits, places = model(x)[0, len(window) - 1, :len(table)].float().topk(min(top_k, len(table)))
        ids.append(int(places[torch.multinomial((logits / temperature).softmax(0), 1)]))
        if ids[-1] == len(table) - 1:  # the end of the text
            break
    text = decode([i for i in ids if i < len(table) - 1], table)
    print("".join(c if c.isprintable() or c in "\\n\\t" else "\\ufffd" for c in text))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
'''
README = '''# {run_id}

A language model, trained on the track `{track}`; written by `python -m records export` from its run's log.

| | |
| --- | --- |
{rows}

```
python model.py "In 1856, Abraham Lincoln"
```

needs torch alone. {code}
`merges.txt` and `vocab.json` are byte-level BPE as GPT-2's; the last id ends a text.
'''
CODE = {
    "script": "`gpt.py` is the part of the run's script that makes its model; read it before it runs.",
    "transformers": '''`gpt.py` is GPT-2 as transformers has it, whose stock class loads this folder:

```
from transformers import GPT2LMHeadModel, GPT2Tokenizer
model, tokenizer = GPT2LMHeadModel.from_pretrained("."), GPT2Tokenizer.from_pretrained(".")
```
'''}


def main(arguments: argparse.Namespace) -> int:
    """Write the folder; return the exit code."""
    log, folder = launches.find_log(arguments.log), arguments.folder
    run = load_runs(log.path)[0]
    weights, hp = checked(arguments.weights or weights_path(log.path), run), run.hyperparameters
    row, recipe = own_row(str(run.track), launches.ROOT), run.at("hyperparameters", "recipe")
    kind = run.at("hyperparameters", "recipe", "model", "kind") if row["recipe"] == "lab" else None
    if kind not in (None, "gpt2"):
        raise ReadError(f"{run.name}: a lab model of kind {shown(str(kind))}; of the lab's only gpt2 is "
                        f"exported, `python -m records extract` gives the code of any")
    code = read_bytes(launches.ROOT / "lab/models/exported.py") if kind else model_code(log)
    vocabulary = launches.vocabulary_of(str(run.track))
    write_files({}, folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"gpt.py": code, "model.py": MODEL.encode(), **{
        path: read_bytes(launches.ROOT / path) for path in ("data/bpe.py", "harness/vocabulary.py")}}
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as name:  # what fails leaves nothing
        aside = Path(name).resolve()
        write_files(sources, aside)
        finish("data.bpe", vocabulary, aside)
        if kind:
            finish("lab.models.export", weights.resolve(), aside, text=json.dumps(recipe))
        else:
            shutil.copyfile(weights, aside / "model.safetensors")
            config = {"recipe": row["recipe"], "overrides": run.mapping("overrides"), "hyperparameters": hp,
                      "n_positions": hp.get("val_seq_len") or hp.get("seq_len"),
                      "vocab_size": row["vocab_size"]}
            (aside / "config.json").write_text(json_text(config))
        (aside / "README.md").write_text(readme(run, "transformers" if kind else "script"))
        for path in aside.iterdir():
            path.rename(folder / path.name)
    command = shlex.join([launches.torch_python(), str(folder / "model.py"), "In 1856, Abraham Lincoln"])
    print(f"wrote {folder}; it writes text: {command}")
    return 0


def checked(weights: Path, run: Run) -> Path:
    """Return the path of the weights that a log names. Raises ReadError where there are others, or none."""
    if not weights.is_file():
        raise ReadError(f"{shown(weights.name)}: no such file; train with --weights true (lab train: "
                        f"--keep_weights), or give --weights FILE")
    with open(weights, "rb") as f:
        found, named = hashlib.file_digest(f, "sha256").hexdigest(), str(run.end.get("state_sha256"))
    if found != named:
        raise ReadError(f"{shown(weights.name)}: sha256 {found[:16]}, the log names {shown(named)[:16]}")
    return weights


def finish(module: str, *words: object, text: str = "") -> None:
    """Run a module of this checkout. Raises ReadError where it fails."""
    process = launches.start(module, *words, stdin=subprocess.PIPE, text=True)
    process.communicate(text)
    if process.returncode:
        raise ReadError(f"{module} ended with exit code {process.returncode}; its words stand above")


def model_code(log: Log) -> bytes:
    """Return of a script what GPT and RECIPES need, in its own words and order, comments above included.

    A statement that names nothing new stays where all that it uses does. Raises ReadError where the script
    has no GPT, or its model comes from another file.
    """
    name = shown(log.path.name)
    try:
        lines, nodes = log.script.decode().split("\n"), ast.parse(log.script).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ReadError(f"{name}: a script of another Python ({type(error).__name__})") from None
    needed, kept = {"GPT", "RECIPES", "annotations"}, []  # the last: of __future__
    while more := [node for node in nodes if node not in kept and bound(node) & needed]:
        kept += more
        needed |= {name.id for node in more for name in ast.walk(node) if isinstance(name, ast.Name)}
    kept += [node for node in nodes if not bound(node) and needed >= {
        name.id for name in ast.walk(node) if isinstance(name, ast.Name)}]
    own = {path.split("/")[0].removesuffix(".py") for path in log.files}
    for node in kept:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
            node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if own & {name.split(".")[0] for name in names} or getattr(node, "level", 0):
            raise ReadError(f"{name}: its model needs {shown(ast.unparse(node))}; expected one "
                            f"script that holds it whole; `python -m records extract` gives all files")
    if not {"GPT", "RECIPES"} <= {name for node in kept for name in bound(node)}:
        raise ReadError(f"{name}: its script has no GPT(hp) (docs/rules.md)")
    parts = [lines[min(above.end_lineno if above else 0, node.lineno - 1):node.end_lineno]
             for above, node in zip([None, *nodes], nodes) if node in kept]
    return "\n".join(["\n".join(part) for part in parts]).encode() + b"\n"


def bound(node: ast.AST) -> set[str]:
    """Return the names that a statement gives a value at the top of a module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(bound, ast.iter_child_nodes(node)))


def readme(run: Run, code: str) -> str:
    """Return what the log says of a run, for people."""
    end, row = run.end, run.mapping("track_row")
    facts = {
        "loss": f"{end.get('val_loss')} nats per token on {row.get('val_tokens')} tokens of validation",
        "training": f"{end.get('step')} steps, {end.get('tokens')} tokens on {run.world_size} rank(s) of "
                    f"{run.device}, seed {run.seed}",
        "parameters": f"{run.at('parameters', 'total')}, products in {run.hyperparameters.get('dtype')}",
        "log": f"sha256 {run.sha256}",
        "weights": f"sha256 {end.get('state_sha256')}"}
    rows = "\n".join(f"| {name} | {cell(str(value))} |" for name, value in facts.items())
    return README.format(run_id=cell(run.run_id), track=shown(str(run.track)), rows=rows, code=CODE[code])
