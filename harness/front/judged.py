"""The judge's child: takes token ids and gives logits back, of a script and weights that it is told.

    python -I -B judged.py FOLDER DEVICE

It locks itself up before it imports anything of FOLDER/code. stdin: a line of JSON, then ids, uint16. stdout:
frames, each a line of JSON and as many bytes as that says. What the script prints goes to stderr.
"""
import contextlib
import dataclasses
import importlib.util
import json
import os
import resource
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/dev/null", "/dev/zero", "/dev/urandom")


def main(folder: str, device: str) -> None:
    """Answer a setup, and then ids until stdin ends; an error becomes the last frame."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    here, asked = Path(__file__).resolve().parent, {}
    sandbox, weights = load("sandbox", here / "sandbox.py"), (here.parent / "weights.py").read_text()
    devices = map(str, Path("/dev").glob("nvidia*") if device != "cpu" else ())
    held = sandbox.lock_up([*SYSTEM, sys.prefix, sys.base_prefix, *sys.path, folder], [*devices])
    import torch  # only now: a thread that it started before would be at large
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # asked for by some imports; nothing can be written there
    exec(weights, own := {"__name__": "weights"})
    send(out, {"sandbox": held, "torch": torch.__version__})
    try:
        asked = json.loads(sys.stdin.buffer.readline())
        if device == "cpu":
            with contextlib.suppress(ValueError, OSError):  # macOS has none, and a lower one may hold
                resource.setrlimit(resource.RLIMIT_AS, (asked["memory"],) * 2)
        answer(asked, Path(folder), device, out, own)
    except BaseException as error:
        send(out, {"ok": word(error, asked), "error": f"{type(error).__name__}: {error}"[:1000]})


def answer(asked: dict[str, Any], folder: Path, device: str, out: BinaryIO, own: dict[str, Any]) -> None:
    """Import the script, send the state of GPT(hp), load the weights, give logits."""
    import torch
    torch.set_float32_matmul_precision(asked["precision"])
    sys.path[:0] = [str((folder / "code" / asked["script"]).parent), str(folder / "code")]
    module = load("submission", folder / "code" / asked["script"])
    send(out, {"imported": True})
    try:
        recipe = module.RECIPES[asked["recipe"]]
        changes = {name: tuple(value) if isinstance(getattr(recipe, name), tuple) else value
                   for name, value in asked["overrides"].items()}  # a log has lists for tuples
        torch.manual_seed(asked["seed"])
        model = module.GPT(dataclasses.replace(recipe, **changes))
    except Exception as error:
        raise NotImplementedError(f"no GPT(hp) (docs/rules.md): {type(error).__name__}: {error}") from error
    parts = list(own["serialized"](model))
    send(out, {"bytes": sum(map(len, parts))}, *parts)
    del parts
    take(model, Path(asked["weights"]), {word: dtype for dtype, word in own["DTYPES"].items()})
    model.to(device).eval()
    with torch.no_grad():
        (B, T), last = asked["shape"], asked.get("last", False)  # last: behind a number n, logits of place n
        while data := sys.stdin.buffer.read(2 * (last + B * T)):
            ids = torch.frombuffer(bytearray(data), dtype=torch.uint16).to(device, torch.int64)
            logits = model(ids[int(last):].view(B, T))
            logits = (logits[:, ids[0] - 1, None] if last else logits).float().cpu().contiguous()
            send(out, {"shape": list(logits.shape)}, memoryview(logits.numpy()).cast("B"))


def word(error: BaseException, asked: dict[str, Any]) -> bool | None:
    """Return what an error says of the run: False, or None where it may be the machine's, or no contract."""
    name = str(error.name).split(".")[0] if isinstance(error, ModuleNotFoundError) else None
    lacks = name in asked.get("modules", ())
    memory = isinstance(error, MemoryError) or "memory" in str(error)
    return None if lacks or memory or isinstance(error, NotImplementedError) else False


def send(out: BinaryIO, facts: dict[str, Any], *parts: bytes | memoryview) -> None:
    """Write a frame."""
    for part in map(memoryview, (json.dumps(facts).encode() + b"\n", *parts)):
        while part:
            part = part[out.write(part):]


def load(name: str, path: Path) -> ModuleType:
    """Return a file imported under a name, which is not __main__: what a program does it does not do."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def take(model: Any, path: Path, dtypes: dict[str, Any]) -> None:
    """Copy a safetensors file into a model: each tensor to that of its name, some to every storage."""
    import torch
    state = model.state_dict()
    with open(path, "rb") as f, torch.no_grad():
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if name not in state:
                raise ValueError(f"{name} of the weights is not in GPT(hp)")
            tensor, (begin, end) = state[name], entry["data_offsets"]
            if list(tensor.shape) != entry["shape"] or tensor.dtype != dtypes[entry["dtype"]]:
                raise ValueError(f"{name}: {entry['dtype']} {entry['shape']} in the weights, {tensor.dtype} "
                                 f"{list(tensor.shape)} in GPT(hp)")
            if end > begin:
                data = torch.frombuffer(bytearray(f.read(end - begin)), dtype=tensor.dtype)
                tensor.copy_(data.view(tensor.shape))
    told = {state[name].untyped_storage().data_ptr() for name in header}
    if missing := [name for name, tensor in state.items() if tensor.untyped_storage().data_ptr() not in told]:
        raise ValueError(f"{missing[0]} of GPT(hp) is not in the weights")


if __name__ == "__main__":
    main(*sys.argv[1:])
