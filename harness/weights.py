"""A model's state as the bytes of a safetensors file: the same state gives the same bytes anywhere."""
import hashlib
import json
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
          torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.bool: "BOOL",
          torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
          torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64"}


@torch.no_grad()
def serialized(model: nn.Module) -> Iterator[bytes]:
    """Yield model.state_dict() as a file of github.com/huggingface/safetensors: the header, then each tensor.

    Names are sorted. Of those that name one tensor (tied weights) the first stands for all: the constructor
    ties them again. A tensor is copied only where it is not contiguous on the CPU. Raises ValueError for what
    the format cannot hold.
    """
    state, header, seen, end = model.state_dict(), {}, set(), 0
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES:
            found = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(f"state_dict: {name} is {found}, expected a tensor that safetensors knows; what "
                             f"the constructor makes again may be a buffer with persistent=False")
        place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        begin, end = end, end + tensor.nbytes
        header[name] = dict(dtype=DTYPES[tensor.dtype], shape=list(tensor.shape), data_offsets=[begin, end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in header:
        yield memoryview(state[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def digest(pieces: Iterable[bytes]) -> str:
    """Return the sha256 of some pieces together, of serialized(model) for instance."""
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(piece)
    return sha.hexdigest()
