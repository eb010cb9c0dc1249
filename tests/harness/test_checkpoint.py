"""What training changes comes back in place, to the last bit: after the warm-up, and from a checkpoint."""
import json
import os
import pickle
import resource

import pytest
import torch
import torch.distributed as dist
from tiny import result, small_model
from torch import nn

from harness import checkpoint
from harness.checkpoint import CheckpointError, Snapshot
from harness.runlog import sha256
from harness.tripwires import Tripwire, state_digest

WHO = {"track": "t"}
TAKEN = 100


class Momentum:
    """An optimizer that is none of torch's: its state is made by the first step, and it counts its steps."""

    def __init__(self, params):
        self.params, self.made, self.steps, self.log = list(params), {}, 0, []

    def parameters(self):
        return self.params

    @torch.no_grad()
    def step(self):
        self.steps += 1
        self.log.append((self.steps, "done"))
        for p in self.params:
            average = self.made.setdefault(p, torch.zeros_like(p, dtype=torch.float32))
            p.sub_(average.mul_(0.9).add_(p.grad, alpha=1 / self.steps), alpha=0.1)


class Mantissa(torch.optim.Optimizer):
    """SGD on bfloat16 weights with float32 averages and the bits cut off, as uint16: modern records do."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p not in self.state:
                    self.state[p] = {"average": torch.zeros_like(p, dtype=torch.float32),
                                     "low": torch.zeros(p.shape, dtype=torch.uint16)}
                state = self.state[p]
                state["average"].mul_(0.9).add_(p.grad.float())
                whole = (p.view(torch.int16).int() << 16) | state["low"].int()
                whole = whole.view(torch.float32).sub_(state["average"], alpha=group["lr"]).view(torch.int32)
                state["low"].copy_(whole & 0xFFFF)
                p.view(torch.int16).copy_(whole >> 16)


class Half(Mantissa):
    """The same for every second parameter of a rank, as Muon shares its work; it keeps what it updates."""

    def __init__(self, params):
        params = list(params)
        super().__init__(params)
        self.mine = params[dist.get_rank()::dist.get_world_size()]

    def step(self):
        super().step()
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                dist.broadcast(p.data.view(torch.uint8), src=i % dist.get_world_size())
        self.drop()

    def drop(self):
        for p in set(self.state) - set(self.mine):
            del self.state[p]

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.drop()


def adam(params):
    return torch.optim.Adam(params, lr=0.1)


def net(dtype=torch.float32) -> nn.Module:
    """Return a model with a buffer that each rank has of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    model.register_buffer("scale", torch.zeros(2))
    return model


def steps(model: nn.Module, optimizer, first: int, last: int) -> None:
    """Take steps whose gradients depend on the step, the same on all ranks; the buffer on the rank too."""
    for step in range(first, last):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.sin(torch.arange(p.numel()) + 5.0 * step + i).view_as(p).to(p.dtype)
        model.scale += step + dist.get_rank() + torch.rand(2)
        optimizer.step()


def state(model: nn.Module, optimizer) -> dict[str, int]:
    """Return digests of all tensors, and what the optimizer counts."""
    return state_digest(model, [optimizer]) | {"steps": getattr(optimizer, "steps", None),
                                               "rng": sha256(torch.get_rng_state().numpy().tobytes())}


def saved(folder, kind, dtype, step: int = 2) -> None:
    """Save a checkpoint of a model at a step, and go on for two steps."""
    model = net(dtype)
    optimizer = kind(model.parameters())
    steps(model, optimizer, 0, step)
    checkpoint.save(folder, step, model, [optimizer], {**WHO, "run_id": "r", "taken": 10 * step,
                                                       "train_time_ns": step})
    steps(model, optimizer, step, step + 2)
    return state(model, optimizer)


def resumed(folder, kind, dtype, step: int = 2) -> dict:
    """Resume a model that was trained before, and take two steps."""
    model = net(dtype)
    optimizer = kind(model.parameters())
    facts = checkpoint.resume(folder, WHO, 9, TAKEN, model, [optimizer])
    assert facts["step"] == step
    steps(model, optimizer, step, step + 2)
    return state(model, optimizer)


KINDS = [(adam, torch.float32), (Momentum, torch.float32), (Momentum, torch.bfloat16),
         (Mantissa, torch.bfloat16), (Half, torch.bfloat16)]


@pytest.mark.parametrize("world_size", [1, 2])
def test_checkpoint_and_resume_equal_the_uninterrupted_run_to_the_last_bit(ranks, tmp_path, world_size):
    """bfloat16 weights with float32 and uint16 state came back cast; an optimizer not of torch not at all."""
    def work():
        found = [(saved(tmp_path / str(i), *kind), resumed(tmp_path / str(i), *kind))
                 for i, kind in enumerate(KINDS)]
        return [whole == again for whole, again in found]

    assert ranks(world_size, work) == [[True] * len(KINDS)] * world_size


def test_a_checkpoint_of_two_ranks_is_taken_up_by_one_uncast_and_by_four_where_each_keeps_its_share(
        ranks, tmp_path):
    ranks(2, lambda: [saved(tmp_path / kind.__name__, kind, torch.bfloat16) for kind in (Half, Mantissa)])

    def held(kind):
        model = net(torch.bfloat16)
        optimizer = kind(model.parameters())
        checkpoint.resume(tmp_path / kind.__name__, WHO, 9, TAKEN, model, [optimizer])
        return {i: [(str(t.dtype), t.double().sum().item()) for t in optimizer.state[p].values()]
                for i, p in enumerate(model.parameters()) if p in optimizer.state}

    [whole], [of_mantissa] = ranks(1, held, Half), ranks(1, held, Mantissa)
    parts = ranks(4, held, Half)
    assert whole == of_mantissa and [{*part} for part in parts] == [{0}, {1}, {2}, {3}]
    assert {key: entry for part in parts for key, entry in part.items()} == whole
    assert whole[0][0][0] == "torch.float32" and whole[0][1][0] == "torch.uint16"


def test_state_of_an_optimizer_that_is_not_torchs_wants_as_many_ranks_as_it_had(ranks, tmp_path):
    ranks(2, saved, tmp_path, Momentum, torch.float32)

    def said():
        with pytest.raises(CheckpointError, match="each of 2 ranks had its Momentum, .* resume with as many"):
            resumed(tmp_path, Momentum, torch.float32)

    ranks(1, said)


def test_a_checkpoint_of_another_model_or_other_optimizers_is_refused(alone, tmp_path):
    saved(tmp_path, adam, torch.float32)
    with pytest.raises(CheckpointError, match="it is of another model, or of optimizers of other"):
        resumed(tmp_path, adam, torch.bfloat16)
    model = net()
    with pytest.raises(CheckpointError, match="it is of another model, or of optimizers of other"):
        checkpoint.resume(tmp_path, WHO, 9, TAKEN, model, [adam([p]) for p in model.parameters()])


def rewrite(folder, change) -> None:
    """Change what a checkpoint holds, marker included: what a bug or a careless hand leaves."""
    file = folder / "rank0.pt"
    held = torch.load(file, weights_only=True)
    changed = change(held)
    file.write_bytes(changed) if isinstance(changed, bytes) else torch.save(held, file)
    (folder / "COMPLETE").write_text(json.dumps({file.name: sha256(file.read_bytes())}))


BROKEN = {
    "no archive": lambda held: b"not a checkpoint",
    "what torch will not unpickle": lambda held: pickle.dumps(os.getcwd, protocol=2),
    "no state": lambda held: held.clear(),
    "an impossible step": lambda held: held.update(step=-3),
    "a step that is text": lambda held: held.update(step="4"),
    "impossible tokens": lambda held: held["facts"].update(taken=10**12),
    "no tokens": lambda held: held["facts"].update(taken=0),
    "a tensor of the model missing": lambda held: held["model"].clear(),
    "facts of another type": lambda held: held.update(facts=[1, 2]),
    "optimizers of another type": lambda held: held.update(optimizers=[7]),
    "a random state of another type": lambda held: held.update(cpu_rng=torch.zeros(3)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_where_the_newer_checkpoint_is_broken_in_any_way_the_whole_older_one_is_used(alone, tmp_path, how):
    """It was a traceback wherever the marker matched."""
    whole = saved(tmp_path, adam, torch.float32)
    saved(tmp_path, adam, torch.float32, step=4)
    rewrite(tmp_path / "step000004", BROKEN[how])
    assert resumed(tmp_path, adam, torch.float32) == whole
    with pytest.raises(CheckpointError, match="no whole checkpoint; step000004 is not whole") as error:
        resumed(tmp_path / "step000004", adam, torch.float32)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_the_two_newest_by_number_are_kept_and_nothing_else_of_the_folder_is_deleted(alone, tmp_path):
    """step1000000 sorted before step999999, and was deleted; so was a user's step-backup."""
    for step in (999_998, 999_999):
        (tmp_path / f"step{step}").mkdir()
        (tmp_path / f"step{step}" / "COMPLETE").write_text("{}")
    others = ["notes", "step-backup", "step000001", "step999997.old"]
    for name in others:
        (tmp_path / name).mkdir()
    model = net()
    checkpoint.save(tmp_path, 1_000_000, model, [], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "step1000000", "step999999"])
    assert checkpoint.steps_in(tmp_path)[-1].name == "step1000000"


def test_a_full_disk_leaves_no_half_of_a_checkpoint(alone, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            saved(tmp_path, adam, torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*(tmp_path / "step000002").iterdir()] == []


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("kind, dtype", KINDS)
def test_a_snapshot_puts_weights_buffers_optimizers_and_random_numbers_back(alone, kind, dtype, steps_before):
    """An optimizer that had no state has none again; one that had (of a resumed run) has the same."""
    model = net(dtype)
    optimizer = kind(model.parameters())
    steps(model, optimizer, 0, steps_before)
    before, held = state(model, optimizer), dict(vars(optimizer))
    snapshot = Snapshot(model, [optimizer])
    groups = getattr(optimizer, "param_groups", [{}])
    lr = groups[0].get("lr")
    groups[0].update(lr=7.0, new=1)
    steps(model, optimizer, 5, 7)
    snapshot.put_back()
    assert state(model, optimizer) == before and all(p.grad is None for p in model.parameters())
    assert kind is Momentum or (groups[0]["lr"] == lr and "new" not in groups[0])
    assert all(vars(optimizer)[name] is held[name] for name in held if isinstance(held[name], (dict, list)))


def test_tensors_that_a_snapshot_puts_back_are_the_same_objects(alone):
    """Compiled graphs and views of flat buffers hold on to them."""
    model = net()
    optimizer = adam(model.parameters())
    steps(model, optimizer, 0, 1)
    average = optimizer.state[model[0].weight]["exp_avg"]
    snapshot, kept = Snapshot(model, [optimizer]), average.clone()
    steps(model, optimizer, 1, 2)
    snapshot.put_back()
    assert optimizer.state[model[0].weight]["exp_avg"] is average and torch.equal(average, kept)


def test_an_optimizer_inside_an_optimizer_and_its_functions_survive_a_snapshot(alone):
    class Both:
        def __init__(self, params):
            self.inner, self.update, self.shapes = adam(params), torch.add, {torch.Size([3]): (1, 2)}
            self.parameters = self.inner.param_groups[0]["params"].copy

        def step(self):
            self.inner.step()

    model = net()
    both = Both(model.parameters())
    snapshot = Snapshot(model, [both])
    before, inner = state(model, both), both.inner
    steps(model, both, 0, 2)
    snapshot.put_back()
    assert state(model, both) == before and both.update is torch.add and both.inner is inner
    assert not inner.state and both.shapes == {torch.Size([3]): (1, 2)}


def test_what_a_snapshot_does_not_know_trips():
    gpt = small_model()
    gpt.seen = torch.zeros(1)
    snapshot = Snapshot(gpt, [])
    gpt.seen += 1
    with pytest.raises(Tripwire, match="warmup: .seen kept what the warm-up did"):
        snapshot.put_back()


OWN = '''
class Own:
    """An optimizer that is none of torch's."""

    def __init__(self, params):
        self.params, self.averages, self.param_lr = list(params), {}, 0.01

    def parameters(self):
        return self.params

    @torch.no_grad()
    def step(self):
        for p in self.params:
            average = self.averages.setdefault(p, torch.zeros_like(p))
            p.sub_(average.mul_(0.9).add_(p.grad), alpha=self.param_lr)


def main() -> None:
'''


def test_a_run_of_an_optimizer_that_is_not_torchs_is_warmed_up_stopped_and_resumed(project):
    """Its state is made in the warm-up, gone at step 0, and back after the resume."""
    train = "        for group in (group for optimizer in optimizers for group in optimizer.param_groups):\n"
    rate = '            group["lr"] = group.setdefault("initial_lr", group["lr"]) * lr_factor(step, hp)\n'
    script = project.submission("own.py", ("\ndef main() -> None:\n", OWN), (train + rate, ""), (
        "build_optimizers(model, run.hp, run.compile)", "[Own(model.parameters())]"))
    project.run(2, "--checkpoint_every=2", script=script)
    project.run(2, f"--resume={project.logs()[0].with_suffix('.checkpoints') / 'step000004'}", script=script)
    whole, again = map(result, project.logs())
    assert whole["state_sha256"] == again["state_sha256"] and whole["status"] == again["status"] == "ok"
