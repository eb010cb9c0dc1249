"""./run.sh --seeds: one seed after another until the rule decides, killed or not, with nothing dropped."""
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from synthetic import runnable, sound, unjudged, write
from tiny import TINY, Project, environment
from waiting import until

from harness.front.cores import physical_cores
from records.tools.again import launch as launches
from records.tools.again import seeds
from records.__main__ import COMMANDS, main
from records.tools.read.values import ReadError


class Campaign:
    """Seeds of a synthetic checkout: the n-th run has the n-th loss, or ends with the n-th word."""

    def __init__(self, root: Path):
        self.root, self.results, self.seeds = runnable(root), iter(()), []
        (root / "train_gpt2.py").write_bytes(sound(0).script)

    def launch(self, tree: Path, flags: list[str], folder: Path, signals: launches.Signals,
               place: dict | None = None) -> list[Path]:
        result = next(self.results)
        if result is SystemExit:
            raise result
        seed = next(int(flag[7:]) for flag in flags if flag.startswith("--seed="))
        self.seeds.append(seed)
        run = sound(seed)
        run.script, run.name = (tree / "train_gpt2.py").read_bytes(), f"{len(self.seeds):06x}"
        if isinstance(result, str):
            run.end["status"] = result
        else:
            run.vals[-1][1] = result
        return [write(self.root / "records" / "runs", run)]

    def run(self, results: list, *words: str) -> int:
        self.results = iter(results)
        return main(["seeds", *(words or ("auto",)), "--track", "tiny"])

    def state(self) -> dict:
        [file] = (self.root / "records" / "runs").glob("seeds_*.json")
        return json.loads(file.read_text())


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    campaign = Campaign(tmp_path / "checkout")
    monkeypatch.setattr(launches, "ROOT", campaign.root)
    monkeypatch.setattr(seeds, "RUNS", campaign.root / "records" / "runs")
    monkeypatch.setattr(launches, "launch", campaign.launch)
    return campaign


GOOD = [4.90, 4.91, 4.92, 4.90]  # p well below 0.0025 at the first look


def test_a_clear_campaign_is_proven_at_the_first_look_and_not_before(campaign, capsys):
    assert campaign.run(GOOD) == 0
    assert campaign.seeds == [0, 1, 2, 3]
    first, last = capsys.readouterr().out.strip().split("\n")
    assert first.startswith("PROVEN: ") and last.startswith("+ python -m records submit ")
    assert last.count(".txt") == 4 and last.endswith(" --name NAME")
    state = campaign.state()
    with pytest.raises(ReadError, match="not the log of this campaign's seed 1"):
        seeds.finished(state["logs"][0], state["code"], 1)


def test_a_run_of_the_code_that_was_made_before_is_submitted_with_the_campaign(campaign, capsys):
    """`./run.sh`, then `./run.sh --seeds auto`, as the README has it: the claim was PROMISING without it."""
    campaign.results = iter([4.9])
    [before] = campaign.launch(campaign.root, ["--seed=0"], campaign.root, None)
    assert campaign.run(GOOD) == 0
    last = capsys.readouterr().out.strip().split("\n")[-1]
    assert last.count(".txt") == 5 and before.name in last


@pytest.mark.parametrize("losses, count, says", [
    ([6.1], "1", "nothing to submit: the mean loss is 1.1 above the target 5"),
    ([4.9], "1", "nothing to submit yet: n=1, too few"), (["failed"], "1", "nothing to submit"),
    ([5.5, 5.51, 5.52, 5.5], "4", "nothing to submit: the mean loss is 0.5075 above the target 5"),
    ([4.8, 5.1] * 16, "auto", "nothing to submit: no declared look is left"),
    ([4.9, 4.91, 4.9], "3", "+ python -m records submit ")])
def test_only_what_could_be_a_record_is_proposed_as_one(losses, count, says, campaign, capsys):
    """Of one run 1.1 nats above the target, too, it said how to submit it; and after the last look that
    `--seeds auto` goes on."""
    assert campaign.run(losses, count) == 1
    assert capsys.readouterr().out.split("\n")[1].startswith(says)


@pytest.mark.parametrize("words, keep", [([], False), (["--keep_weights", "true"], True)])
def test_runs_are_judged_after_the_last_one_and_a_bad_one_makes_the_campaign_invalid(
        words, keep, campaign, judge, capsys, monkeypatch):
    def launch(*given):
        assert not judge.asked  # never between two timed runs
        return [unjudged(log) for log in campaign.launch(*given)]
    monkeypatch.setattr(launches, "launch", launch)
    assert campaign.run(GOOD, "auto", *words) == 0
    logs = campaign.state()["logs"]
    assert [name for name, *_ in judge.asked] == logs
    assert all((seeds.RUNS / name).with_suffix(".safetensors").exists() == keep for name in logs)
    verdict = (seeds.RUNS / logs[2]).with_suffix(".judge.json")
    verdict.write_text(verdict.read_text().replace("true", "false"))
    assert campaign.run([], "auto", *words) == 1 and len(judge.asked) == 4
    assert f"INVALID: by the judge {logs[2]} does not hold" in capsys.readouterr().out


@pytest.mark.parametrize("losses, word", [
    ([4.98, 4.97, 4.96, 4.99, *[4.97] * 4], "PROVEN"),  # p is .0007 after six runs, but six is no look
    ([4.9, 5.1] * 16, "NOT SHOWN"),  # to the last look
    ([5.5, 5.51, 5.52, 5.5], "REFUTED"),
])
def test_only_looks_decide(losses, word, campaign, capsys):
    assert campaign.run(losses) == (word != "PROVEN")
    assert capsys.readouterr().out.startswith(word) and len(campaign.seeds) == len(losses)


def test_a_failed_run_counts_and_ends_it_for_good(campaign, capsys):
    assert campaign.run([4.9, "failed"]) == 1
    assert campaign.run([]) == 1
    assert capsys.readouterr().out.count("INVALID: seed 1 ended failed") == 2


def test_a_killed_campaign_goes_on_with_the_next_seed_and_counts_the_attempt(campaign):
    with pytest.raises(SystemExit):  # stands for a kill: nothing is written after it
        campaign.run([*GOOD[:2], SystemExit])
    declared = campaign.state()
    assert declared["target"] == 5.0 and declared["looks"] == [4, 8, 16, 32] and len(declared["logs"]) == 2
    assert campaign.run(GOOD[2:]) == 0
    assert campaign.seeds == [0, 1, 2, 3] and campaign.state()["attempts"] == 5


def test_an_interrupted_run_stops_it_and_its_seed_is_run_again(campaign):
    assert campaign.run([4.9, "interrupted"]) == 130
    assert campaign.run(GOOD[1:]) == 0
    assert campaign.seeds == [0, 1, 1, 2, 3]


def test_a_number_runs_so_many_and_gives_the_verdict_as_it_stands(campaign, capsys):
    assert campaign.run([4.9, 4.91, 4.9], "3") == 1
    assert capsys.readouterr().out.startswith("PROMISING")
    assert campaign.run([4.9], "4") == 0


def test_other_code_and_other_flags_are_other_campaigns(campaign):
    assert campaign.run(GOOD) == 0
    assert campaign.run([4.9], "1", "--lr", "0.1") == 1
    (campaign.root / "train_gpt2.py").write_bytes(sound(0).script + b"x = 1\n")
    assert campaign.run([4.9], "1") == 1
    assert campaign.seeds == [0, 1, 2, 3, 0, 0]


def test_code_that_changes_under_way_stops_it(campaign, monkeypatch, capsys):
    real = campaign.launch

    def edits(*words):
        logs = real(*words)
        (campaign.root / "train_gpt2.py").write_bytes(b"x = 1\n")
        return logs
    monkeypatch.setattr(launches, "launch", edits)
    assert campaign.run(GOOD) == 2
    assert "that is another campaign" in capsys.readouterr().err and campaign.seeds == [0]


def test_a_rule_that_changed_after_the_first_run_is_refused(campaign, capsys):
    assert campaign.run([4.9], "1") == 1
    tracks = campaign.root / "harness" / "tracks.toml"
    tracks.write_text(tracks.read_text().replace("target = 5.0", "target = 6.0"))
    assert campaign.run(GOOD) == 2
    assert "declares another target" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["auto", "--seed", "1"], "--seed together with --seeds"), (["auto", "--seed=1"], "--seed together"),
    (["auto", "--resume", "x"], "--resume together"), (["many"], "expected auto or a whole number"),
    (["0"], "expected auto or a whole number"), (["auto", "--stop_at_step", "3"], "no final loss"),
    (["auto", "stray"], "expected flags of the run")])
def test_wrong_words_get_one_line_and_exit_code_2(words, message, campaign, capsys):
    assert campaign.run([], *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_track_without_a_target_has_no_campaign(campaign, capsys):
    """It was a KeyError."""
    tracks = campaign.root / "harness" / "tracks.toml"
    tracks.write_text(tracks.read_text().replace("target = 5.0\n", ""))
    assert campaign.run([], "2") == 2
    assert "track tiny: no target, so no rule decides" in capsys.readouterr().err


@pytest.fixture
def beside(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Two GPUs, whose runs wait for each other before they write their logs; where runs were placed."""
    here, turn, placed = threading.Barrier(2, timeout=60), threading.Lock(), []

    def launch(tree: Path, flags: list[str], folder: Path, signals: launches.Signals, place: dict):
        here.wait()  # breaks where runs do not overlap
        with turn:
            placed.append(place)
            seed = next(int(flag[7:]) for flag in flags if flag.startswith("--seed="))
            campaign.results = iter([campaign.losses[seed]])
            return Campaign.launch(campaign, tree, flags, folder, signals)
    monkeypatch.setattr(launches, "launch", launch)
    monkeypatch.setattr(launches, "places", lambda device: [{"CUDA_VISIBLE_DEVICES": i} for i in "01"])
    return placed


def test_seeds_side_by_side_run_at_once_and_campaign_and_ledger_say_so(campaign, beside, call):
    campaign.losses = GOOD
    assert campaign.run([], "auto", "--side_by_side") == 0
    state, runs = campaign.state(), campaign.root / "records" / "runs"
    assert state["side_by_side"] == [[0, 1], [2, 3]] and state["flags"] == {"nproc_per_node": "1"}
    assert [seeds.read_log(runs / name).manifest["seed"] for name in state["logs"]] == [0, 1, 2, 3]
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in beside) == ["0", "0", "1", "1"]
    lines = [json.loads(line) for line in (runs / "ledger.jsonl").read_text().splitlines()]
    told = [name for line in lines if line["what"] == "side_by_side" for name in line["run_ids"]]
    assert [f"{name}.txt" for name in told] == state["logs"]


def test_of_seeds_side_by_side_those_before_an_interrupted_one_count(campaign, beside, capsys):
    """And a run that failed is named by its own seed, not by the last one."""
    campaign.losses = [4.9, "interrupted"]
    assert campaign.run([], "auto", "--side_by_side") == 130
    assert len(campaign.state()["logs"]) == 1 and campaign.state()["attempts"] == 2
    campaign.losses = [None, "failed", 4.9]
    assert campaign.run([], "auto", "--side_by_side") == 1
    assert "INVALID: seed 1 ended failed" in capsys.readouterr().out and len(campaign.state()["logs"]) == 3


@pytest.mark.parametrize("words, code, gpus, says", [
    (["--nproc_per_node", "2"], b"", 2, "each run has one GPU or core"),
    ([], b"", 1, "this host has one GPU or core"),
    ([], b"run.accumulate(f, x, y, reduce=False)\n", 2, "sums gradients by itself (reduce=False)")])
def test_side_by_side_is_refused_where_it_would_be_other_training(words, code, gpus, says, campaign, capsys,
                                                                   monkeypatch):
    monkeypatch.setattr(launches, "places", lambda device: [{}] * gpus)
    (campaign.root / "train_gpt2.py").write_bytes(sound(0).script + code)
    assert campaign.run([], "auto", "--side_by_side", *words) == 2
    assert says in capsys.readouterr().err and not campaign.seeds


def example(project: Project, count: str) -> list[str]:
    """Return the example's command line for the tiny track, with a number of seeds."""
    script, name, _ = COMMANDS["seeds"][1].split()
    return ["bash", str(project.folder / script), "--python", sys.executable, name, count, "--track=tiny",
            "--nproc_per_node=1", *TINY]


def test_run_sh_runs_a_seed_and_then_has_nothing_more_to_run(tmp_path):
    """The first call trains once; the second only reads."""
    project = Project(tmp_path / "the project")
    project.add_records()
    for _ in range(2):
        done = subprocess.run(example(project, "1"), capture_output=True, text=True, cwd=tmp_path,
                              env=environment(), timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 1, done.stderr
        assert done.stdout.startswith("NOT SHOWN: ") and "nothing to submit" in done.stdout
    assert len(project.logs()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_real_campaign_that_is_ended_goes_on(number, tmp_path):
    project = Project(tmp_path / "the project")
    project.add_records()
    settings = {"cwd": project.folder, "env": environment(), "stdin": subprocess.DEVNULL}
    command = example(project, "2")
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, **settings) as process:
        until(lambda: process.poll() is not None or len(project.logs()) >= 2
              and list((project.folder / "records" / "runs").glob("seeds_*")))
        os.killpg(process.pid, number)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)
    assert done.returncode == 1 and "going on with" in done.stderr, done.stderr
    [file] = (project.folder / "records" / "runs").glob("seeds_*.json")
    state = json.loads(file.read_text())
    assert len(state["logs"]) == 2 and state["attempts"] == 3


@pytest.mark.slow
@pytest.mark.skipif(physical_cores() < 2, reason="runs at once want two cores")
def test_real_runs_side_by_side_are_those_that_run_alone(tmp_path):
    """The same seed gives the same bits, whoever runs beside it."""
    ends = []
    for flag in ("--side_by_side", "--nproc_per_node=1"):
        project = Project(tmp_path / flag)
        project.add_records()
        command = ["bash", str(project.folder / "run.sh"), "--python", sys.executable, "--seeds", "2",
                   "--track=tiny", "--device=cpu", flag, *TINY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=project.folder,
                              env=environment(), stdin=subprocess.DEVNULL)
        assert done.returncode == 1, done.stderr
        ends.append({log.manifest["seed"]: log.end["state_sha256"] for log in map(
            seeds.read_log, (project.folder / "records" / "runs").glob("*.txt"))})
    assert ends[0] == ends[1] and len(ends[0]) == 2
