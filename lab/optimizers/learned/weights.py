"""Weights of learned optimizers: safetensors from a file, a folder, or a repository of Hugging Face's hub."""
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import torch
from torch import Tensor

from harness.weights import serialized
from records.tools.read.values import write_whole

FILE = "model.safetensors"


def load(name: str | None, part: str, hub: str, shapes: dict[str, tuple],
         defaults: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return float32 tensors of these names and shapes, and the file's sha256; it may hold others too.

    name: what the recipe says; part: what comes behind it; defaults: tensors that the file may lack. Raises
    ValueError, in one line with the hub's id and the command, for no such file, or one of another network.
    """
    if (path := find(f"{name}{part}")) is None or name is None:
        raise ValueError(f"optimizer.weights: found {name}, and no file of it here; `hf download {hub}{part} "
                         f"{FILE}`, then --override optimizer.weights {hub}, or give a path")
    content = path.read_bytes()
    try:
        begin = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:begin])
        found = {key: (entries[key]["dtype"], tuple(entries[key]["shape"]), *entries[key]["data_offsets"])
                 for key in shapes if key in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"optimizer.weights: {path}: not safetensors: {error}") from None
    tensors = dict(defaults)
    for key in shapes.keys() - defaults.keys() | found.keys():
        dtype, shape, first, last = found.get(key, ("nothing", (), 0, 0))
        if (dtype, shape) != ("F32", shapes[key]):
            raise ValueError(f"optimizer.weights: {path}: {key}: found {dtype} {list(shape)}, expected F32 "
                             f"{list(shapes[key])}; it is of another optimizer")
        data = bytearray(content[begin + first:begin + last])
        tensors[key] = torch.frombuffer(data, dtype=torch.float32).view(shape)
    return tensors, hashlib.sha256(content).hexdigest()


def save(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors as safetensors, whole; return the file's sha256."""
    content = b"".join(serialized(SimpleNamespace(state_dict=lambda: tensors)))
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def find(name: str) -> Path | None:
    """Return a file of weights: a path, with or without its ending, or what the hub's cache has of an id."""
    for path in (Path(name), Path(name) / FILE, Path(f"{name}.safetensors")):
        if path.is_file():
            return path
    try:  # a run never reaches for the network
        return Path(huggingface_hub.hf_hub_download(name, FILE, local_files_only=True))
    except (OSError, ValueError):
        return None
