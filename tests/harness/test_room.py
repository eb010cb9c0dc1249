"""What a present-day submission asks of a run: stages, lengths, tokens and reductions of its own."""
import functools
import json
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from tiny import events, result

from harness.endings import BadInput
from harness.run import Run

SCRIPT = '''from harness.run import open_run

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    vocab_size: int = 257
    seq_len: int = 16
    batch_tokens: int = 64
    micro_batch: int = 1
    epochs: int = 1
    num_iterations: int = 4
    val_every: int = 2
    FIELDS


RECIPES = {"sample": Hyperparameters()}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(257, 257)
        self.calls = []

    def forward(self, idx):
        if not self.training and len(idx) > 1:
            self.calls.append(list(idx.shape))
        return self.table(idx)


def loss_sum(net, x, y):
    return F.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction="sum")


with open_run(__file__, RECIPES) as run:
    torch.manual_seed(run.seed)
    hp, model, seen = run.hp, Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step in run.steps(model, [optimizer], WARMUP):
        BODY
        optimizer.step()
'''
STEP = ("tokens = run.take({n}); "
        "loss = run.accumulate(loss_sum, tokens[:-1].view(-1, 16), tokens[1:].view(-1, 16){more})")
TRAINED = re.compile(r"step:\d+/\d+ train_loss:")
STAGES = "batch_stages: tuple = ((1, 128), (2, 192))"


def runs(project, ranks, *steps, fields="", warmup="None", code=0):
    """Run a submission on each number of ranks; return its logs."""
    script = SCRIPT.replace("FIELDS", fields).replace("WARMUP", warmup)
    (project.folder / "room.py").write_text(script.replace("BODY", "\n        ".join(steps)))
    for n in ranks:
        [answer] = project.many(("room.py", []), shared=[], ranks=n)
        assert answer["code"] == code, answer["stderr"]
    return project.logs()[-len(ranks):]


def said(log):
    """Return what a run printed, each line as a value."""
    return [json.loads(line[2:]) for line in log.read_text().split("\n") if line.startswith("> [")]


def trained(log):
    """Return the training losses of a log's step lines, by step."""
    words = [line.split() for line in log.read_text().split("\n") if TRAINED.match(line)]
    return {int(line[0][5:].split("/")[0]): float(line[1].partition(":")[2]) for line in words}


def test_batches_that_grow_1_2_3_train_to_the_same_bits_on_1_2_and_4_ranks(project):
    """12 micro-batches of the last two steps are no power of two; the tokens follow from the stages."""
    step = STEP.format(n="run.batch_tokens(step)", more="")
    logs = runs(project, (1, 2, 4), step, fields=STAGES)
    vals = [[(val["step"], val["tokens"], val["val_loss"], val["weights"]) for val in events(log, "val")]
            for log in logs]
    assert vals[0] == vals[1] == vals[2] and [val[:2] for val in vals[0]] == [(0, 0), (2, 192), (4, 576)]
    assert [result(log)["status"] for log in logs] == ["ok"] * 3


def test_the_warm_up_goes_through_the_steps_that_are_named_and_a_validation_of_each(project):
    """After it all is as without it; rows of the validation may be longer than those of training."""
    step = STEP.format(n="run.batch_tokens(step)", more="")
    [plain] = runs(project, (1,), step, fields=STAGES)
    notes = ("model.calls.append(step)", "run.print(model.calls)", step)
    for log in runs(project, (1, 2), *notes, fields=f"{STAGES}\n    val_seq_len: int = 64",
                    warmup="[0, 1, 3, 3]"):
        assert said(log)[0][:7] == [0, [2, 64], 1, [2, 64], 3, 3, [2, 64]]
        assert events(log, "val")[-1]["weights"] == events(plain, "val")[-1]["weights"]
        untimed = result(log)["untimed"]
        ranks = events(log, "manifest")[0]["world_size"]
        assert (untimed["warmup_steps"], untimed["pieces"], untimed["compile_ns"]) == (4, 12 // ranks, 0)
        assert min(untimed[name] for name in ("step_ns", "warmup_step_ns", "piece_ns")) > 0


def test_a_run_may_end_on_its_tokens_at_a_step_that_nobody_knew_before(project):
    """The size of a step is known when it comes; num_iterations is a bound that is not reached."""
    fields = "num_iterations: int = 20\n    train_tokens: int = 448\n    ends_on_tokens: bool = True"
    step = STEP.format(n="min(run.tokens_left, 64 * (1 + step % 2))", more="")
    for log in runs(project, (1, 2), step, fields=fields):
        assert [(val["step"], val["tokens"]) for val in events(log, "val")] == [
            (0, 0), (2, 192), (4, 384), (5, 448)]
        assert (result(log)["status"], sorted(trained(log))) == ("ok", [1, 2, 3, 4, 5])
        assert log.read_text().count("\n> the model writes: ") == 3  # at the start, after a tenth, at the end


def test_a_bound_on_the_steps_that_comes_before_the_tokens_is_no_success(project):
    fields = "train_tokens: int = 448\n    ends_on_tokens: bool = True"
    [log] = runs(project, (1,), STEP.format(n="64", more=""), fields=fields, code=1)
    assert result(log)["message"] == "tokens: 256 taken, the recipe says 448"


def test_a_submission_may_reduce_by_itself_and_its_losses_are_logged_at_the_segments_end(project):
    """Against the harness's own reduction: to the four digits of the step lines, each in its place."""
    mine = (STEP.format(n="64", more=", reduce=False"),
            "torch.distributed.all_reduce(model.table.weight.grad)")
    [one] = runs(project, (1,), STEP.format(n="64", more=""))
    for log in runs(project, (1, 2), *mine):
        assert trained(log) == trained(one) and len(trained(log)) == 4
        assert abs(result(log)["val_loss"] - result(one)["val_loss"]) < 1e-6
        lines = log.read_text().split("\n")
        borders = [i for i, line in enumerate(lines) if line.startswith("#:val ")]
        assert [len(list(filter(TRAINED.match, lines[a:b]))) for a, b in pairwise(borders)] == [2, 2]


def test_random_numbers_of_a_step_are_the_same_on_all_ranks_and_tokens_may_stay_on_the_cpu(project):
    draw = ("drawn = torch.rand(2, generator=run.generator(step))",
            "torch.distributed.all_reduce(both := drawn.clone())",
            "assert both.equal(drawn * run.world_size)", "run.print([step, *drawn.tolist()])",
            STEP.format(n="64, device='cpu'", more=""))
    one, two = (said(log) for log in runs(project, (1, 2), *draw))
    assert one == two and len({tuple(line[1:]) for line in one}) == 4


def test_tokens_that_stay_on_the_cpu_are_pinned_where_the_streams_are(monkeypatch):
    """Tensor.to gave a copy that was not, from which a GPU waits for each batch. Here pinning is played."""
    share, asked, empty_like = torch.arange(5), [], torch.empty_like
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    monkeypatch.setattr(torch, "empty_like", lambda *a, pin_memory, **k: asked.append(
        (str(k["device"]), pin_memory)) or empty_like(*a, **k))
    run = SimpleNamespace(_warming=False, tokens_left=4, _taken=0, rank=0, world_size=1,
                          device=torch.device("meta"), _stream=SimpleNamespace(take_share=lambda *a: share))
    taken = Run.take(run, 4, device="cpu")
    assert torch.equal(taken, share) and taken is not share and Run.take(run, 4).is_meta
    assert asked == [("cpu", True), ("meta", False)]


def test_a_function_may_have_more_graphs_than_torchs_setting_allows_which_stays_as_it_is(monkeypatch):
    """Ten shapes; with fullgraph the ninth graph is an error at torch's own limit of 8."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    run = SimpleNamespace(_plan=SimpleNamespace(options=SimpleNamespace(compile=True)))
    for limit in (None, 12):
        twice = Run.compile(run, lambda x: 2 * x, fullgraph=True, recompile_limit=limit)
        for n in range(2, 10):
            twice(torch.ones(n))
        if limit is None:
            with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
                twice(torch.ones(10))
    assert [len(twice(torch.ones(n))) for n in (10, 11)] == [10, 11]
    assert torch._dynamo.config.recompile_limit == 8
    monkeypatch.setattr(torch, "compile", lambda model, fullgraph, dynamic: model)
    with pytest.raises(BadInput, match="install torch 2.13, or make fewer graphs"):
        Run.compile(run, abs, recompile_limit=12)
