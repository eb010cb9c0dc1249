"""Made weights of learned optimizers: networks that show one feature, in files of PyLO's key names."""
import json
from pathlib import Path

import torch
from torch import Tensor

from lab.optimizers import small_fc, velo


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write safetensors of float32."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        size = 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def identity(layers: list[tuple[Tensor, Tensor]], feature: int) -> None:
    """Fill an MLP of three layers so that its first output is one feature, by relu(x) - relu(-x)."""
    (first, _), (second, _), (last, _) = layers
    first[0, feature], first[1, feature] = 1, -1
    second[0, 0] = second[1, 1] = 1
    last[0, 0], last[0, 1] = 1, -1


def small_fc_weights(feature: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Return weights of small_fc that show a feature, or random ones."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: shape for name, shape in small_fc.SHAPES.items() if name.startswith("network")}
    tensors = {name: torch.randn(shape, generator=draw) / 6 if feature is None else torch.zeros(shape)
               for name, shape in shapes.items()}
    if feature is not None:
        identity([(tensors[f"{name}.weight"], tensors[f"{name}.bias"])
                  for name in small_fc.LAYERS], feature)
    return tensors


def velo_weights(feature: int | None = None, bank: int = 0, lr_mult: float = 1.0,
                 seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return both networks of VeLO: one of the bank's MLPs chosen, which shows a feature; or random ones."""
    draw = torch.Generator().manual_seed(seed)
    rnn, mlp = ({name: torch.randn(shape, generator=draw) / 6 for name, shape in shapes.items()}
                for shapes in (velo.RNN_SHAPES, velo.MLP_SHAPES))
    if feature is not None:
        for name in ("rnn_to_controls.weight", "rnn_to_controls.bias", "step_size.weight"):
            rnn[name].zero_()
        rnn["rnn_to_controls.bias"][bank] = 2.56
        rnn["step_size.bias"].fill_(lr_mult)
        chosen = [mlp[name][bank].zero_() for name in velo.MLP_SHAPES]
        identity(list(zip(chosen[::2], chosen[1::2])), feature)
    return rnn, mlp


def write_all(name: Path) -> str:
    """Write weights of all learned optimizers, which move by m / sqrt(v); return what names them."""
    rnn, mlp = velo_weights(7)
    for part, tensors in (("", small_fc_weights(6)), ("_RNN", rnn), ("_MLP", mlp)):
        write(name.with_name(f"{name.name}{part}.safetensors"), tensors)
    return str(name)
