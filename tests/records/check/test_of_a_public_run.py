"""verify and stats of public logs: what makes a claim, what counts once, what an edit leaves in them."""
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_logs import FIXTURES
from synthetic import campaign

from harness.runlog import ROOT
from records.tools.check.of_a_public_run import lines
from records.tools.read.logs import load_runs
from records.tools.read.run import Point, Run
from records.tools.read.same import kind

LOSSES = (3.2788, 3.2779, 3.2786, 3.2783)
CODE = "import torch\nmodel = torch.compile(f, dynamic=False, fullgraph=True)\n"


def write(folder: Path, name: str, loss: float, ms: float = 60.0, steps: int = 1390, ends: int = 1390,
          code: str | None = CODE, also: str = "", first: str = "") -> Path:
    """Write a public log of layout D, or of F where there is no code, and return its path.

    also: put behind each val_loss, with {} for a loss.
    """
    rule, body = "=" * 100, first
    for step in (0, 250, 500, 750, 1000, 1250, 1380, 1390):
        if step <= ends:
            lost = loss + 0.001 if step == 1380 else loss + (1390 - step) ** 2 / 3e5
            spent = step * ms
            body += (f"step:{step}/{steps} val_loss:{lost:.4f}{also.format(f'{lost - 0.01:.4f}')} "
                     f"train_time:{spent:.0f}ms step_avg:{spent / max(step, 1):.2f}ms\n")
            body += (f"step:{step + 1}/{steps} train_time:{spent + ms:.0f}ms "
                     f"step_avg:{(spent + ms) / (step + 1):.2f}ms\n")
    head = "" if code is None else f"{code}{rule}\nRunning PyTorch 2.10.0 compiled for CUDA 12.8\n{rule}\n"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + body)
    return path


def four(folder: Path, losses: tuple = LOSSES, ms: float = 60.0, **more: object) -> list[Path]:
    """Write a log a loss, each with times of its own."""
    return [write(folder, f"{i}.txt", loss, ms + i / 50, **more) for i, loss in enumerate(losses)]


@pytest.fixture
def verify(call) -> Callable:
    """Return verify(code, *words) -> the claim as JSON, its checks by name; a terminal must see its notes."""
    def verify(code: int, *words: object) -> dict:
        out = call("verify", *words, code=code).out
        [claim] = json.loads(call("verify", "--json", *words, code=code).out)
        assert all(f"note: {note}\n" in out for note in claim["notes"])
        return claim | {"checks": {check["name"]: check for check in claim["checks"]}}
    return verify


def test_losses_that_are_absent_are_no_copy(tmp_path, verify):
    """An honest record was INVALID: its training lines tell no losses, so the first 20 were the same."""
    logs = [write(tmp_path, f"{i}.txt", loss, 60 + i, first=f"Using seed={i}\n")
            for i, loss in enumerate(LOSSES)]
    found = verify(0, *logs)["checks"]["distinct"]
    assert (found["result"], found["evidence"]) == ("ok", "4 runs, 4 seeds")


@pytest.mark.parametrize("seeds, words", [("{}", "say seeds 0 and 9"), ("none", "say no seed")])
def test_a_run_whose_times_alone_are_others_is_no_second_one(seeds, words, tmp_path, verify):
    logs = [write(tmp_path, f"{i}.txt", loss, 60 + i / 50, first=f"seed={seeds.format(i)}\n")
            for i, loss in enumerate(LOSSES)]
    logs.append(write(tmp_path, "9.txt", LOSSES[0], 61, first=f"seed={seeds.format(9)}\n"))
    claim = verify(1, *logs)
    assert claim["word"] == "INVALID" and words in claim["checks"]["distinct"]["evidence"]


def test_a_run_whose_times_and_last_loss_alone_are_others_is_no_second_one(tmp_path, verify):
    """Four copies of one log were PROMISING: the last loss, which a cheat edits, was compared too."""
    logs = [write(tmp_path, f"{i}.txt", LOSSES[0], 60 + i / 50) for i in range(4)]
    for i, log in enumerate(logs):
        above, mark, below = log.read_text().rpartition("val_loss:3.2788")
        log.write_text(f"{above}val_loss:{LOSSES[i]:.4f}{below}")
    claim = verify(1, *logs)
    assert claim["word"] == "INVALID"
    assert "6 of their losses are the same" in claim["checks"]["distinct"]["evidence"]


def test_one_line_of_a_folder_tells_review_and_notes(tmp_path, call):
    """A record with a flag of the compiler and its bad seeds cut off was a bare PROMISING in its folder."""
    for name in ("2026-05-01_A", "2026-05-02_B"):
        four(tmp_path / name, code=CODE + "torch._inductor.config.x = 1\n", also=" val_ema_loss:{}")
    first = call("verify", tmp_path).out.splitlines()[0]
    assert "(REVIEW: settings, scan); validation lines hold val_loss, val_ema_loss" in first


def test_trials_that_end_without_a_validation_are_named_and_no_crash(tmp_path, verify):
    """The rest of a log whose steps fall to one line of training, with logs without code beside it."""
    bare = four(tmp_path / "b", tuple(loss + 1e-4 for loss in LOSSES), 61, code=None)
    logs = [*four(tmp_path / "a"), *bare]
    logs[0].write_text(logs[0].read_text() + "step:1/1390 train_time:60ms step_avg:60.00ms\n")
    claim = verify(0, *logs)
    assert len(claim["runs"]) == 8 and "unfinished" in claim["checks"]["complete"]["evidence"]


@pytest.mark.parametrize("last, word, code", [(("inf", "-inf"), "INVALID", 1),
                                              (("1e308", "1e308"), "NOT SHOWN", 0)])
@pytest.mark.parametrize("first", ["", "seed=1\n"])
def test_losses_at_the_ends_of_the_floats_are_judged(first, last, word, code, tmp_path, verify):
    logs = four(tmp_path, LOSSES[:2], first=first)
    for log, loss in zip(logs, last):
        log.write_text(re.sub(r"(1390/1390 val_loss:)\S+", rf"\g<1>{loss}", log.read_text()))
    assert verify(code, *logs)["word"] == word


def test_names_of_losses_without_end_fill_no_page(tmp_path, verify, refused):
    """A note had 660 KB in one line."""
    also = "".join(f" val_{'a' * 30}{chr(97 + i)}_loss:{{0}}" for i in range(20))
    logs = four(tmp_path, also=also)
    assert len(verify(0, *logs)["notes"][0]) < 300
    assert len(refused("verify", *logs, "--loss", "none")) < 400


def test_blank_lines_of_a_script_are_passed_over_once(tmp_path):
    """Of 30,000 in each of four scripts verify took 11.6 s."""
    run, begun = Run(tmp_path, 0, "public D", code=b"\n" * 30_000 + b"x\n\tseed\t= 1\n"), time.process_time()
    other = Run(tmp_path, 1, "public D", code=b"\n" * 30_000 + b"x\n\tseed\t= 2\n")
    assert kind(run) == kind(other)
    assert time.process_time() - begun < 1


def test_a_line_is_held_against_the_validation_before_it_in_a_time_that_grows_with_the_lines(tmp_path):
    points = [Point(step, 3.0, 60.0 * step, step_avg_ms=60.0) for step in range(1, 20_001)]
    run, begun = Run(tmp_path, 0, "public D", vals=points), time.process_time()
    assert lines(run, None) == "20000 step lines"
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("line", ["seed = {}", "    run_id: str = 'mine_{}'",
                                  "logfile = f'logs_{}/{{x}}.txt'", "os.makedirs('logs_{}', exist_ok=True)"])
def test_a_claim_is_of_one_script_its_seed_and_the_place_of_its_logs_apart(line, tmp_path, verify, call):
    logs = [write(tmp_path, f"{i}.txt", loss, 60 + i / 50, code=CODE + line.format(i) + "\n")
            for i, loss in enumerate(LOSSES)]
    found = verify(0, *logs)
    assert len(found["runs"]) == 4 and found["notes"] == []
    assert call("stats", *logs, "--target", "3.28").out.startswith(f"{'runs':30}4\n")


def test_other_scripts_beside_the_fastest_that_reaches_the_target_are_baselines(tmp_path, verify):
    """p 0.00826 was printed of a submission pooled with its two baselines; alone it has 0.0029."""
    four(tmp_path / "logs" / "this_pr", ms=60)
    four(tmp_path / "logs" / "baseline", tuple(loss + 0.0005 for loss in LOSSES), 61, code=CODE + "x = 1\n")
    four(tmp_path / "logs" / "too_fast", tuple(loss + 0.01 for loss in LOSSES), 50, code=CODE + "x = 2\n")
    write(tmp_path / "logs", "one.txt", 3.1, 40, code=CODE + "x = 3\n")
    claim = verify(0, tmp_path)
    assert {Path(run["file"]).parent.name for run in claim["runs"]} == {"this_pr"}
    assert "mean 3.2784" in claim["reason"]
    assert "the fastest script that reaches the target" in claim["notes"][0]
    assert all(words in claim["notes"][0] for words in (
        "judged: 4 like this_pr/0.txt", "4 like baseline/0.txt (mean 3.27890)", "1 like logs/one.txt"))
    code = claim["checks"]["code"]
    assert code["result"] == "review"
    assert "4 like too_fast/0.txt (mean 3.28840, faster, above the target)" in code["evidence"]
    assert verify(1, tmp_path / "logs" / "too_fast")["word"] == "REFUTED"


def test_a_run_that_ends_before_the_others_is_no_result_and_is_named(tmp_path, verify, call):
    """The last line of a log that was cut off, 3.30 at step 1500 of 1555, was taken for a final loss."""
    logs = [*four(tmp_path), write(tmp_path, "cut.txt", 3.3, 62, ends=1250)]
    claim = verify(0, *logs)
    words = "cut.txt ends at step 1250 of 1390, before step 1390: unfinished, no result"
    assert claim["checks"]["complete"] | {"every": []} == {
        "name": "complete", "result": "review", "evidence": words, "every": []}
    assert len(claim["runs"]) == 4 and "mean 3.2784" in claim["reason"]
    report = json.loads(call("stats", *logs, "--target", "3.28", "--json", code=0).out)
    assert report["target"]["test"]["n"] == 4 and words in report["notes"]
    at_1250 = verify(1, *logs, "--step", 1250)
    assert len(at_1250["runs"]) == 5
    assert at_1250["checks"]["complete"]["evidence"] == "ends at step 1250 of 1390"


def test_runs_that_all_end_before_the_last_step_are_results_of_which_one_alone_cannot_tell(tmp_path, verify):
    logs = four(tmp_path, steps=1400)
    assert verify(0, *logs)["checks"]["complete"]["result"] == "ok"
    found = verify(0, logs[0])["checks"]["complete"]
    assert found["result"] == "unknown" and "where its script stops, or cut off" in found["evidence"]


def test_recaps_copies_and_results_alone_count_once_with_a_note(tmp_path, verify, call):
    """Nine runs counted as 32: each once more in the terminal's output, and twice in that of all."""
    logs = four(tmp_path)
    tails = [log.read_text().rpartition("=\n")[2] for log in logs]
    last = [re.findall("step:13.0.*val_loss.*\n", tail) for tail in tails]
    told = (tail + "Recap\n" + "".join(end) for tail, end in zip(tails, last))
    (tmp_path / "all.out").write_text("".join(told))
    (tmp_path / "0.stdout").write_text(tails[0])
    (tmp_path / "final_val_loss.txt").write_text(last[1][-1])
    claim = verify(0, tmp_path)
    assert len(claim["runs"]) == 4 and claim["notes"][0].startswith("10 of 14 tell a run again")
    assert claim["checks"]["distinct"]["result"] == "unknown" and claim["checks"]["code"]["result"] == "ok"
    out, err = call("stats", tmp_path, "--target", "3.28")
    assert out.startswith(f"{'runs':30}4\n") and "10 of 14 tell a run again" in err


def test_logs_without_code_are_those_of_the_script_that_ends_where_they_do(tmp_path, verify):
    four(tmp_path, LOSSES[:3], code=None)
    write(tmp_path, "code.txt", LOSSES[3], 63)
    write(tmp_path / "ablation", "x.txt", 3.2, 50, ends=1250, code=None)
    claim = verify(0, tmp_path)
    assert len(claim["runs"]) == 4 and claim["checks"]["code"]["result"] == "review"
    assert "one script in 1 run" in claim["checks"]["code"]["evidence"]


def test_another_loss_of_a_line_is_judged_where_it_is_named_at_the_step_of_each_side(
        tmp_path, verify, call, refused):
    """The current record of the optimizer track was refuted by the loss that it does not claim."""
    also = " val_avg_loss:3.5 val_ema_loss:{}"
    logs = four(tmp_path / "a", tuple(loss + 0.009 for loss in LOSSES), also=also)
    assert "judged is val_loss, --loss NAME" in verify(1, *logs)["notes"][0]
    claim = verify(0, *logs, "--loss", "val_ema_loss", "--step", 1380)
    assert "mean 3.2784" in claim["reason"] and "judged is val_ema_loss" in claim["notes"][0]
    report = json.loads(call("stats", *logs, "--loss", "val_ema_loss", "--target", 3.28, "--vs", *logs,
                             "--step", 1390, "--vs_step", 1380, "--json").out)
    assert (report["step"], report["vs"]["step"], round(report["vs"]["old"] - report["vs"]["new"], 6)) == (
        1390, 1380, 0.001)
    for words in (["--loss", "val_x_loss"], ["--step", 7]):
        refused("verify", *logs, *words)
    refused("stats", *logs, "--vs_step", 7)


def test_loss_and_step_of_our_own_logs_are_not_chosen(root, refused):
    assert "are for public logs" in refused("verify", *campaign(root), "--step", 4)


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.glob("layout_*")))
def test_in_every_layout_a_time_that_was_altered_fails_lines(name, tmp_path, verify, capsys):
    honest = (FIXTURES / name).read_text()
    last = honest.rindex("train_time:")
    path = tmp_path / name
    path.write_text(honest[:last] + re.sub(r"train_time:[\d.]+", "train_time:10", honest[last:]))
    claim = verify(1, path)
    assert claim["word"] == "INVALID" and "step_avg" in claim["checks"]["lines"]["evidence"]


def test_a_layout_without_times_says_in_one_sentence_what_it_does_not_show(call):
    out = call("verify", FIXTURES / "llmc.log").out.strip().split("\n")
    assert "unknown monotone: " in "\n".join(out) and out[-1].startswith("this layout does not show hashes, ")
    assert len(out) < 15


@pytest.mark.parametrize("old, new, name, state, words", [
    (r"(step:1250/1390 val_loss:)\S+ train_time:75000ms", r"\g<1>2.1000 train_time:10ms", "monotone", "fail",
     "10 ms at step 1250, 60060 before it"),
    (r"(step:1250/1390 val_loss:)\S+", r"\g<1>2.1000", "lines", "review", "loss 2.1 at step 1250, between"),
    (r"(train_time:)83400(ms step_avg:)60.00", r"\g<1>79400\g<2>57.12", "monotone", "fail", "79400 ms at"),
    (r"(step:1250/1390 .*train_time:)75000(ms step_avg:)60.00", r"\g<1>60070\g<2>48.06", "pace", "review",
     "ms a step, at the next fastest"),
])
def test_an_altered_line_is_seen_by_the_lines_around_it(old, new, name, state, words, tmp_path, verify):
    """Of a log whose time at step 1250 was set to 10 ms and loss to 2.1 was said "nothing against it"."""
    logs = four(tmp_path)
    text = re.sub(r"step:1251.*\n", "", logs[0].read_text()) if name == "pace" else logs[0].read_text()
    logs[0].write_text(re.sub(old, new, text))
    assert logs[0].read_text() != text
    claim = verify(int(state == "fail"), *logs)
    found = claim["checks"][name]
    assert found["result"] == state and words in found["evidence"]


def test_flags_that_the_rules_ban_come_first_and_json_has_every_finding(tmp_path, verify):
    """A banned flag hid in "and 18 more"; 3 findings of 20 were shown anywhere."""
    code = ("import torch, glob, uuid, threading\nopen('x')\nexec('x')\n"
            "import torch._inductor.config as config\ndef f(config):\n    return config.n_head\n"
            "config.coordinate_descent_tuning = True\n")
    checks = verify(0, *four(tmp_path, code=code))["checks"]
    assert checks["settings"]["result"] == "review"
    assert checks["settings"]["evidence"].endswith("script:7: config.coordinate_descent_tuning = True")
    scan = checks["scan"]
    assert scan["evidence"].startswith("script:4: settings of torch's compiler; script:7: settings of")
    assert len(scan["every"]) >= 7 and not [found for found in scan["every"] if "script:6" in found]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="its peak is read from /proc")
def test_a_history_of_1549_logs_is_listed_in_proportion(tmp_path):
    """Prints time and memory of both; VmHWM, as ru_maxrss of a child begins at that of its parent."""
    big = CODE + "# a line of code of a usual length, of which a public log has some\n" * 1500
    for i in range(1549):
        write(tmp_path / f"{i // 20}", f"{i}.txt", 3.278 + i % 7 / 1e4, 60 + i / 1e3, code=big)
    program = ("import sys\nfrom records.__main__ import main\nmain(sys.argv[1:])\n"
               "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n")
    for words, seconds, mib in ((["list", "--json", tmp_path], 120, 100),
                                (["verify", tmp_path / "3"], 20, 100)):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program, *map(str, words)], cwd=ROOT, text=True,
                              capture_output=True)
        spent, peak = time.monotonic() - begun, int(done.stderr.split()[-1]) / 1024
        print(f"{words[0]}: {spent:.1f} s, {peak:.0f} MiB")
        assert spent < seconds and peak < mib, (words, spent, peak)
    assert len(load_runs(tmp_path / "0" / "0.txt")) == 1
