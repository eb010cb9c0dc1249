"""harness/weights.py: a safetensors file of a model's state, the same bytes for the same state."""
import hashlib
import json

import pytest
import torch
from tiny import events, result, submission
from torch import nn

from harness.weights import DTYPES, digest, serialized


def read(file: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, as its format is published."""
    start = 8 + int.from_bytes(file[:8], "little")
    kinds, tensors = {name: dtype for dtype, name in DTYPES.items()}, {}
    for name, entry in json.loads(file[8:start]).items():
        begin, end = entry["data_offsets"]
        flat = torch.frombuffer(bytearray(file[start + begin:start + end]) or bytearray(8), dtype=torch.uint8)
        tensors[name] = flat[:end - begin].view(kinds[entry["dtype"]]).view(entry["shape"])
    return tensors


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors have dtype, shape and bits in common."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def holder(**tensors: torch.Tensor) -> nn.Module:
    """Return a module with some buffers."""
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module


def every_kind() -> nn.Module:
    """Return a module with a tensor of each type, and with those that are awkward to lay out."""
    random = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    of = {f"of_{name}": (random * 9).abs().to(dtype) for dtype, name in DTYPES.items()}
    return holder(**of, turned=random.T, rows=random[::2], scalar=torch.tensor(2.5), none=torch.empty(0, 3),
                  none_too=torch.empty(0, 3), first=random[:2], second=random[2:4])


def test_every_tensor_comes_back_to_the_last_bit_as_the_format_is_published():
    module = every_kind()
    file = b"".join(serialized(module))
    found = read(file)
    assert found.keys() == module.state_dict().keys() and (8 + int.from_bytes(file[:8], "little")) % 8 == 0
    assert all(same(found[name], tensor) for name, tensor in module.state_dict().items())


def test_the_safetensors_library_reads_what_was_written():
    library = pytest.importorskip("safetensors.torch")
    module = every_kind()
    found = library.load(b"".join(serialized(module)))
    assert all(same(found[name], tensor) for name, tensor in module.state_dict().items())


def test_a_tensor_with_two_names_is_written_once_and_a_constructor_that_ties_them_takes_it_back():
    def tied() -> nn.Module:
        net = nn.ModuleDict({"table": nn.Embedding(10, 7), "head": nn.Linear(7, 10, bias=False)})
        net["head"].weight = net["table"].weight
        return net

    net, other = tied(), tied()
    found = read(b"".join(serialized(net)))
    assert [*found] == ["head.weight"]
    assert other.load_state_dict(found, strict=False).missing_keys == ["table.weight"]
    assert digest(serialized(other)) == digest(serialized(net))


def test_the_digest_is_of_names_types_shapes_and_values_and_not_of_how_they_lie_in_memory():
    values = torch.arange(6.0).view(2, 3)
    same_values = holder(b=values.T.contiguous().T, a=values[0].clone())
    others = [holder(a=values[0], c=values), holder(a=values[0], b=values.double()),
              holder(a=values[0], b=values.view(3, 2)), holder(a=values[0], b=values + 1)]
    known = digest(serialized(holder(a=values[0], b=values)))
    assert digest(serialized(same_values)) == known
    assert len({known, *(digest(serialized(other)) for other in others)}) == 5


def test_what_the_format_cannot_hold_is_told_by_name():
    with pytest.raises(ValueError, match="state_dict: a is torch.complex128, expected a tensor that safe"):
        list(serialized(holder(a=torch.zeros(2, dtype=torch.complex128))))


def test_a_run_leaves_its_weights_beside_the_log_and_logs_their_sha256_and_that_of_step_0(project):
    """On any number of ranks, but where --weights says no; a resumed run knows nothing of step 0."""
    for ranks, *flags in ((1,), (2, "--checkpoint_every=4"), (1, "--weights=false", "--stop_at_step=2")):
        project.run(ranks, *flags)
    project.run(1, f"--resume={project.logs()[1].with_suffix('.checkpoints')}")
    one, two, without, resumed = project.logs()
    files = [log.with_suffix(".safetensors") for log in (one, two, without, resumed)]
    assert [file.exists() for file in files] == [True, True, False, True]
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()]
    assert sums == [result(log)["state_sha256"] for log in (one, two, resumed)] and len(set(sums)) == 1
    assert result(without)["state_sha256"] not in sums
    manifests = [events(log, "manifest")[0] for log in (one, two, without, resumed)]
    torch.manual_seed(0)
    start = submission().GPT(submission().Hyperparameters(**manifests[0]["hyperparameters"]))
    assert [m["init_sha256"] for m in manifests] == [digest(serialized(start))] * 3 + [None]
    trained = read(files[0].read_bytes())
    assert trained.keys() == start.state_dict().keys() and not same(trained["wte.weight"], start.wte.weight)


def test_a_disk_that_is_full_at_the_weights_ends_the_run_with_its_log_and_no_half_of_a_file(project):
    log = project.folder / "records" / "runs"
    fills = project.adds("fills.py", "import resource",  # between log and weights
                         "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))")
    project.run(2, "--n_embd=128", script=fills, code=5)
    end = project.end()
    assert end["status"] == "disk_full" and end["step"] == 6 and "Traceback" not in end["message"]
    assert not [path for path in log.iterdir() if "safetensors" in path.name]
