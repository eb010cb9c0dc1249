"""Whole runs of a tiny track: the same training on any number of ranks, resumed, watched, refused."""
import json
import math
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import TAKE, Project, events, result

from harness import environment
from harness.clock import Clock
from harness.run import Run
from harness.shards import write_shard


def test_1_2_and_4_ranks_train_to_the_same_bits_across_shard_borders(project):
    """Six steps of 256 tokens over shards of 601, 602 and 603."""
    for ranks in (1, 2, 4):
        project.run(ranks)
    one, two, four = [[(v["step"], v["tokens"], v["val_loss"], v["weights"]) for v in events(log, "val")]
                      for log in project.logs()]
    assert one == two == four and [val[:2] for val in one] == [(0, 0), (3, 768), (6, 1536)]
    ends = [result(log) for log in project.logs()]
    assert len({(end["state_sha256"], end["val_loss"]) for end in ends}) == 1
    assert ends[0]["val_loss"] < math.log(257) and ends[0]["status"] == "ok"


def test_fast_reduction_and_other_device_batches_train_the_same_up_to_rounding(tmp_path):
    """Six steps; losses near 5 from the same numbers summed in another order: 1e-5 is a hundred roundings."""
    project = Project(tmp_path, reduction="fast")
    project.run(1)
    project.run(2, "--device_batch_size=2")
    [first, second] = [[v["val_loss"] for v in events(log, "val")] for log in project.logs()]
    assert first[0] == second[0] and all(abs(a - b) < 1e-5 for a, b in zip(first, second))


def test_tripwires_trip_each_on_its_own_submission(project):
    """One process, one run after the other: what one did must not touch the next."""
    norm, loop = "x_BTC = norm(self.wte(idx_BT))", "    for step in run.steps(model, optimizers):\n"
    trains = f"if not self.training:\n                self.wte.weight.data += 1e-4\n            {norm}"
    ahead = "x_BTC = norm(self.wte(idx_BT).flip(1).cumsum(1).flip(1))"
    training = "        train(run.hp, model, build_optimizers(model, run.hp, run.compile), run)\n"
    replaces = "    import harness.validate\n    harness.validate.validate = lambda *a: 1.0\n"
    scripts = {
        "train_gpt2.py": None,
        project.submission("ahead.py", (norm, ahead)): "causality",
        project.submission("trains.py", (norm, trains)): "validation: the weights changed",
        project.adds("keeps.py", "model.seen = getattr(model, 'seen', torch.zeros(1)) + 1"): "warmup: .seen",
        project.adds("twice.py", "run.take(hp.batch_tokens)", after=TAKE): "tokens: ",
        project.adds("gives_back.py", "run._warming or run.take(-hp.batch_tokens)",
                     "run.take(hp.batch_tokens)", after=TAKE): "tokens: 256 + -256 taken",
        project.submission("trains_again.py", (training, 2 * training)): "steps: a second training",
        project.adds("rewinds.py", "run._stream.position = 0"): "tokens: the stream stands at",
        project.adds("reads.py", "import os", "os.environ.get('MY_LEARNING_RATE')"): "environment: reads.py",
        project.adds("streams.py", "from harness.tokens import TokenStream",
                     "TokenStream(run._plan.data.train)"): "tokens: another stream was opened",
        "train_gpt2.py again": None,
        project.adds("late.py", "import late_module, harness.front.cores"): None,
        project.submission("replaces.py", (loop, replaces + loop)): "harness",
    }
    (project.folder / "late_module.py").write_text("x = 1\n")
    answers = dict(zip(scripts, project.many(*((script.split()[0], []) for script in scripts))))
    for script, message in scripts.items():
        assert answers[script]["code"] == (1 if message else 0), (script, answers[script]["stderr"])
        end = result(Path(answers[script]["log"]))
        assert not message or (end["status"], end["type"]) == ("failed", "Tripwire"), script
        assert not message or message in end["message"], script
    first, *_, again, last, _ = (Path(answer["log"]) for answer in answers.values())
    assert result(first)["state_sha256"] == result(again)["state_sha256"]
    assert [e["path"] for e in events(last, "late")] == ["harness/front/__init__.py",
                                                         "harness/front/cores.py", "late_module.py"]


def header(index: int, value: int):
    """Return a change of data: another number in a shard's header."""
    return lambda folder: np.memmap(folder / SHARD, "<i4", "r+", shape=256).__setitem__(index, value)


SHARD, VAL = "tiny_train_000001.bin", "tiny_val_000000.bin"
PINS = json.dumps({"files": {VAL: {"sha256": "0" * 64}}})
BAD_DATA = [  # what is done to the folder, and what is said of it
    (lambda folder: os.truncate(folder / SHARD, 1500), "1500 bytes whose header has tokens"),
    (header(0, 7), "magic 7, expected 20240520"), (header(1, 9), "version 9, expected 1"),
    (header(2, 5), "header has tokens 5"),
    (lambda folder: write_shard(folder / SHARD, np.full(602, 300)), "token id 300"),
    (lambda folder: (folder / "tiny_train_000002.bin").unlink(), "the run takes 1536 and one more"),
    (lambda folder: write_shard(folder / VAL, np.zeros(512)), "validates on 512 and one more"),
    (lambda folder: [path.unlink() for path in folder.glob("tiny_train*")], "no tiny_train_*.bin"),
    (lambda folder: (folder / "manifest.json").write_text(PINS), "manifest.json pins 000000"),
    (lambda folder: (folder / "vocab.bpe").write_text("#version: 0.2\na b\n"), "258 ids, the track's vocab"),
    (shutil.rmtree, "no tiny_train_*.bin; get"),
]


def test_bad_input_is_one_line_with_exit_code_2_and_leaves_nothing(project):
    first = "from harness.run import Run, open_run  # first"
    project.submission("late_import.py", (first, f"import os\n{first}"))
    (project.folder / "no_newline.py").write_text((project.folder / "train_gpt2.py").read_text().rstrip("\n"))
    cases = [([f"--data={project.folder / 'data' / str(i)}"], said) for i, (_, said) in enumerate(BAD_DATA)]
    for (flags, _), (change, _) in zip(cases, BAD_DATA):
        change(shutil.copytree(project.folder / "data" / "tiny", Path(flags[0].removeprefix("--data="))))
    cases += [
        (["--micro_batch=5"], "is not a multiple of micro_batch*seq_len"),
        (["--nproc_per_node=3"], "use 1, 2, 4 ranks"),
        (["--num_iteration=3"], "the closest is --num_iterations"),
        (["--num_iterations=many"], "--num_iterations many: expected int"),
        (["--num_iterations"], "--num_iterations has no value"),
        (["num_iterations=3"], "flags are --name value"),
        (["--track=speedway"],
         "no such track; there are fineweb, fineweb_350m, fineweb_1_5b, sample, lab, lab_wikitext, "
         "lab_fineweb, lab_fineweb_edu, tiny"),
        (["--device=tpu"], "--device tpu: expected cpu"), (["--device_batch_size=2"], "leave the flag out"),
        (["--stop_at_step=0"], "--stop_at_step 0: expected at least 1"),
        (["--seed=-1"], "--seed -1: expected at least 0"),
        (["--dtype=float8"], "expected float32, bfloat16 or float16"),
        (["--seq_len=48", "--batch_tokens=384"], "does not divide the track's validation piece"),
        (["--script=nowhere.py"], "no such file"), (["--script=no_newline.py"], "no newline at its end"),
        (["--resume=nowhere"], "no such folder of checkpoints"),
        (["--against=nowhere.txt"], "--against nowhere.txt: no such file"),
        (["--script=late_import.py"], "imports os first; the harness must come first"),
    ]
    launch = "harness/front/launch.py"
    answers = project.many(*((launch, ["--nproc_per_node=1", *flags]) for flags, _ in cases))
    for (flags, message), answer in zip(cases, answers):
        assert answer["code"] == 2, (flags, answer)
        assert message in answer["stderr"] and answer["stderr"].count("\n") == 1, (flags, answer["stderr"])
    assert project.logs() == []


def test_a_model_over_the_tracks_size_or_a_parameter_without_optimizer_is_refused(project):
    project.submission("forgets.py", ("return [adam, muon]", "return [adam]"))
    said = project.run(2, script="forgets.py", code=2).stderr
    assert said.count("\n") == 1 and "parameter blocks.0.attn.c_q.weight is in 0 optimizer groups" in said
    assert "active parameters, track tiny allows 1000000" in project.run(1, "--n_embd=512", code=2).stderr
    assert project.logs() == []


def test_seeds_differ_one_repeats_to_the_bit_and_a_run_may_stop_early(project):
    many = project.many(("train_gpt2.py", ["--seed=0"]), ("train_gpt2.py", ["--seed=1", "--stop_at_step=4"]))
    [again] = project.many(("train_gpt2.py", ["--seed=0", f"--against={many[0]['log']}"]))
    assert again["stdout"].count("+0.0000 at equal step") == 3  # validations, each equal to the bit
    first, other, second = (Path(answer["log"]) for answer in (*many, again))
    assert result(first)["state_sha256"] == result(second)["state_sha256"]
    assert events(first, "val")[1]["weights"] != events(other, "val")[1]["weights"]
    assert (result(other)["status"], result(other)["step"]) == ("stopped", 4)


def test_a_submission_without_a_step_is_no_success(project):
    training = "train(run.hp, model, build_optimizers(model, run.hp, run.compile), run)"
    script = project.submission("idle.py", (training, "pass"))
    assert project.run(2, script=script, code=1).stderr.count("took no step") == 1
    [log] = project.logs()  # it was an attempt
    assert result(log)["status"] == "stopped" and events(log, "val") == []


def test_a_folder_that_takes_no_log_is_told(project):
    (project.folder / "records").write_text("a file is in the way")
    done = project.run(2, code=2)
    assert done.stderr.count("\n") == 1 and "cannot write a log there" in done.stderr


def test_a_run_that_ends_while_its_log_is_opened_has_one_log_and_on_a_full_disk_none(monkeypatch):
    """A signal in the first second opened a second log; of an OSError at the head the last words died."""
    begun, waiting, opened = threading.Event(), threading.Event(), []

    class Door:
        """A lock that tells when somebody waits for it."""

        def __init__(self):
            self.lock = threading.Lock()

        def __enter__(self):
            if not self.lock.acquire(blocking=False):
                waiting.set()
                self.lock.acquire()

        def __exit__(self, *error):
            self.lock.release()

    def open_log(*facts):
        opened.append(facts)
        begun.set()
        assert waiting.wait(60)
        return SimpleNamespace(path="a.txt", end=lambda status, **fields: {"status": status}), {}

    monkeypatch.setattr(environment, "open_log", open_log)
    run = Run.__new__(Run)
    run._opening, run._opened, run._log, run._clock = Door(), (), None, Clock(torch.device("cpu"))
    run.result, run.status = {}, "stopped"
    assert run.end("disk_full")["status"] == "disk_full" and opened == []
    with ThreadPoolExecutor(2) as pool:
        pool.submit(run._open_log, "facts")
        assert begun.wait(60)
        assert pool.submit(run.end, "interrupted").result(60) == {"status": "interrupted"}
    assert opened == [("facts",)] and run.log_path == "a.txt"


def test_a_log_names_no_folder_of_the_host(project):
    script = project.adds("fails.py", "raise ValueError(__file__)")
    project.run(2, f"--data={project.folder / 'data' / 'tiny'}", script=script, code=1)
    assert str(project.folder) not in project.logs()[0].read_text()
    assert "./fails.py" in project.end()["message"]


def test_a_track_needs_a_row_and_a_folder_but_no_code(project):
    """The tiny track is itself a third track; here another row with another folder and recipe fields."""
    rows, mine = project.folder / "harness" / "tracks.toml", project.folder / "data" / "mine"
    text = rows.read_text()
    row = text[text.index("[tiny]"):].replace("[tiny]", "[mine]")
    rows.write_text(text + row.replace("data/tiny", "data/mine").replace("tiny_", "m_"))
    (project.folder / "data" / "tiny").rename(mine)
    for path in list(mine.glob("tiny_*")):
        path.rename(path.with_name(path.name.replace("tiny_", "m_")))
    assert "ok: val_loss" in project.run(2, "--track=mine").stdout
    assert events(project.logs()[0], "manifest")[0]["track"] == "mine"


def test_the_log_holds_scalars_words_and_a_clock_that_adds_up(project):
    script = project.adds("talks.py", "run.log(lr=optimizers[1].param_groups[0]['lr'])",
                          "run.print('#:end {}')")
    project.run(1, script=script)
    [log] = project.logs()
    expected = [0.02] * 4 + [round(0.02 * 2 / 3, 6), round(0.02 / 3, 6)]
    assert [round(e["lr"], 6) for e in events(log, "scalar")] == expected
    assert log.read_text().split("\n").count("> #:end {}") == 6
    end = result(log)
    parts = ("timed_ns", "setup_ns", "warmup_ns", "validation_ns", "checkpoint_ns", "finish_ns",
             "unexplained_ns")
    assert sum(end[part] for part in parts) == end["wall_ns"]
    assert end["train_time_ns"] == end["timed_ns"] > 0 and end["finish_ns"] > 0
    assert "passed the unigram baseline" in log.read_text()


def test_a_set_up_that_waits_for_its_host_is_no_longer_than_what_it_computes(project):
    """At load 12 building a model took 7 s of wall time, 1 s of CPU time: a third of what may be untimed."""
    waits = project.submission("waits.py", ("        torch.manual_seed(run.seed)\n", (
        "        import time\n        time.sleep(0.5)\n        torch.manual_seed(run.seed)\n")))
    project.run(1, script=waits)
    assert 0 < project.end()["untimed"]["setup_ns"] < 5e8


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++") or " " in sys.prefix,
                    reason="torch's compiler for CPUs needs g++, and an environment whose path has no space")
def test_a_compiled_run_is_the_same_up_to_rounding(project):
    project.run(1)
    project.run(1, "--compile=true", timeout=400)
    plain, compiled = map(result, project.logs())
    assert abs(plain["val_loss"] - compiled["val_loss"]) < 1e-4


def test_the_warm_up_changes_no_bit_of_the_training(project):
    run = project.folder / "harness" / "run.py"
    project.run(2)
    run.write_text(run.read_text().replace("WARMUP_STEPS = 2", "WARMUP_STEPS = 0"))
    project.run(2)
    warm, cold = map(result, project.logs())
    assert warm["state_sha256"] == cold["state_sha256"] and warm["warmup_ns"] > 0


def test_out_of_memory_in_the_warm_up_names_the_flag_and_the_value_to_use(tmp_path):
    for reduction, flag in (("exact", "micro_batch"), ("fast", "device_batch_size")):
        project = Project(tmp_path / reduction, reduction)
        full = project.submission("full.py", ("    return F.cross_entropy", (
            "    if y_BT.size(0) > 2:\n"
            "        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 12 GiB')\n"
            "    return F.cross_entropy")))
        said = project.run(1, script=full, code=2).stderr
        assert said.count("\n") == 1, said
        assert f"out of memory with 4 sequences a pass; use --{flag} 2 (CUDA out of" in said
        project.run(1, f"--{flag}=2", script=full)
