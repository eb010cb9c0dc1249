"""What a run says on the terminal and in its log while it trains."""
import io
import re
import sys
from types import SimpleNamespace

import pytest
from tiny import events, new_log

from harness.plan import Options
from harness.report import Report

STEP_NS = 100_000_000


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def report(folder, steps=1400, val_every=140, against=None, **options) -> Report:
    """Return the report of a run whose target is 4.0, with an open log."""
    track = SimpleNamespace(target=4.0, baselines={"unigram": 6.0})
    hp = SimpleNamespace(num_iterations=steps, val_every=val_every)
    plan = SimpleNamespace(track=track, vocabulary=None, against=against, hp=hp, options=Options(**options))
    return Report(plan, new_log(folder), 0)


def train(report: Report, val_every=140) -> None:
    """Say all steps: 0.1 s and 512 tokens each, the loss falling from 8 by 1 every 100 steps."""
    for step in range(report.stop + 1):
        if step % val_every == 0 or step == report.stop:
            report.flush()
            report.validated({"step": step, "val_loss": 8 - step / 100, "train_time_ns": step * STEP_NS})
        if step < report.stop:
            report.trained(step + 1, {"train_loss": 8 - step / 100}, (step + 1) * STEP_NS, (step + 1) * 512)


@pytest.mark.parametrize("steps, val_every, most", [(1400, 140, 35), (4578, 125, 55), (20, 5, 30)])
def test_without_a_terminal_few_lines_come_and_the_log_has_all(tmp_path, capsys, steps, val_every, most):
    """Where a run validates often its validations alone are many; at least ten train lines come with them."""
    train(report(tmp_path, steps, val_every), val_every)
    shown = capsys.readouterr().out.splitlines()
    assert 10 <= len([line for line in shown if "train_loss" in line]) and len(shown) <= most
    assert shown[1].startswith(f"step:1/{steps} train_loss:8.0000")
    [log] = tmp_path.glob("*.txt")
    assert log.read_text().count("train_loss:") == steps


def test_log_every_sets_the_steps_between_lines(tmp_path, capsys):
    train(report(tmp_path, 20, log_every=8))
    assert re.findall(r"step:(\d+)/20 train", capsys.readouterr().out) == ["1", "8", "16"]


def test_the_target_is_told_once_on_the_terminal_and_in_the_log(tmp_path, capsys):
    train(report(tmp_path, 700))
    [log] = tmp_path.glob("*.txt")
    for text, prefix in ((capsys.readouterr().out, ""), (log.read_text(), "> ")):
        told = re.findall(r"^.*(?:target|unigram).*$", text, re.M)
        assert told == [f"{prefix}passed the unigram baseline (6.0000 nats) at step 280 after 28.0 s",
                        f"{prefix}target 4 reached at step 420 after 42.0 s"]


def test_what_a_run_costs_is_told_from_its_first_steps_up_to_where_it_stops(tmp_path, capsys):
    train(report(tmp_path, stop_at_step=251))
    told = [line for line in capsys.readouterr().out.splitlines() if "a step here" in line]
    assert told == ["100.0 ms a step here: training to step 251 takes about 00:24 more"]


@pytest.mark.parametrize("columns", [60, 160])
def test_the_bar_runs_to_where_the_run_stops_with_best_loss_and_what_fits(
        tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = report(tmp_path, stop_at_step=250)
    bar.bar.dynamic_ncols, bar.bar.ncols = None, columns  # as a real terminal would say
    train(bar)
    assert "train_loss" not in capsys.readouterr().out
    shown = str(bar.bar)
    assert shown.startswith("best 5.5000 100%|") and "| 250/250 " in shown and len(shown) <= columns
    assert shown.endswith(", loss 5.5100, 100.0 ms/step, 5.1k tokens/s" if columns > 99 else ", loss 5.5100")


def test_an_objective_of_its_own_is_logged_once_and_held_against_no_training_loss(tmp_path):
    asked = []
    against = SimpleNamespace(trained=lambda *numbers: asked.append(numbers), path=tmp_path,
                              validated=lambda *numbers: "")
    told = report(tmp_path, 20, against=against)
    told.trained(1, {"train_loss": 8.0}, STEP_NS, 512)
    told.flush()
    for step in (2, 3):
        told.objective(step)
        told.trained(step, {"train_loss": 8.0}, step * STEP_NS, step * 512)
    told.flush()
    [log] = tmp_path.glob("*.txt")
    assert [(e["plain"], e["step"]) for e in events(log, "objective")] == [(False, 2)] and len(asked) == 1


def test_name_note_and_objective_of_a_run_are_in_its_log_and_read_nowhere_else(project):
    step = "run.accumulate(lambda net, x, y: loss_of(net(x), y), x_BT, y_BT"
    script = project.submission("own.py", (step + ")", step + ", plain=False)"))
    done = project.run(1, "--name", "a first try", "--note=lr é 0.1; see #3", "--log_every=2", script=script)
    assert [f"step:{i}/6 train" in done.stdout for i in range(1, 7)] == [True, True, False, True, False, True]
    assert done.stdout.startswith("warming up\nstep:0/6")
    [log] = project.logs()
    launch = events(log, "manifest")[0]["launch"]
    assert (launch["name"], launch["note"], launch["log_every"]) == ("a first try", "lr é 0.1; see #3", 2)
    assert [(event["plain"], event["step"]) for event in events(log, "objective")] == [(False, 1)]


def test_a_name_or_note_that_is_no_short_printable_line_is_refused(project):
    cases = [f"--name={'x' * 61}", f"--note={'x' * 201}", "--name=", "--note= ", "--name=a\nb",
             "--note=\x1b[1m"]
    answers = project.many(*(("train_gpt2.py", [flag]) for flag in (*cases, f"--name={'x' * 60}")))
    for flag, answer in zip(cases, answers):
        assert answer["code"] == 2 and answer["stderr"].count("\n") == 1, (flag, answer["stderr"])
        assert flag[:6] in answer["stderr"] and "printable characters" in answer["stderr"]
    assert answers[-1]["code"] == 0
