"""verify: one word a claim, its exit code, and the incidents elsewhere that one command would have met."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import SCRIPT, campaign, change, checkout, ending, resealed, setting, sound

from harness.runlog import canonical, sha256
from records.tools.read import tracks
from records.tools.check import significance
from records.tools.publish import verify
from records.__main__ import main


def found(arguments: list, capsys, code: int) -> dict:
    """Run verify --json, check its exit code, and return what it says of the one claim."""
    assert main(["verify", "--json", *map(str, arguments)]) == code
    [claim] = json.loads(capsys.readouterr().out)
    return claim | {"failed": [c["name"] for c in claim["checks"] if c["result"] == "fail"]}


def worse(run):
    run.vals[-1][1] += 0.5


def near(run):
    run.vals[-1][1] = 5.0 + (run.manifest["seed"] - 2.6) / 10


@pytest.mark.parametrize("n, change, which, word, code", [
    (4, None, 0, "PROVEN", 0), (5, None, 0, "PROMISING", 0), (1, None, 0, "NOT SHOWN", 0),
    (3, near, None, "NOT SHOWN", 0), (4, near, None, "NOT SHOWN", 1), (4, worse, None, "REFUTED", 1),
    (4, ending(status="stopped"), 0, "INVALID", 1), (4, setting(script=SCRIPT + b"#\n"), 0, "INVALID", 1)])
def test_the_word_and_its_exit_code(n, change, which, word, code, root, capsys):
    assert found(campaign(root, n, change, which), capsys, code)["word"] == word


def test_one_sound_log_is_called_sound(root, capsys):
    assert main(["verify", str(campaign(root, n=1)[0])]) == 0
    assert "sound, but 1 log decides nothing; the first declared look is at 4 runs" in capsys.readouterr().out


def test_each_check_prints_one_line_with_its_evidence(root, capsys):
    main(["verify", *map(str, campaign(root))])
    lines = capsys.readouterr().out.strip().split("\n")
    assert lines[0] == "track tiny, 4 runs" and lines[-1].startswith("PROVEN: mean 4.9025")
    assert len(lines) == 2 + len(verify.CHECKS)
    assert all(": " in line for line in lines[1:])


def test_stable_output_holds_nothing_that_differs_between_two_sets_of_runs(root, capsys):
    outputs = []
    for i in range(2):
        def later(run):
            run.end["validation_ns"] += i * 10**6
            run.end["wall_ns"] += i * 10**6
        main(["verify", "--stable", *map(str, campaign(checkout(root / str(i)), change=later, which=None))])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] and "PROVEN" in outputs[0]


def test_missing_attempts_leave_a_claim_promising_at_most(root, capsys):
    claim = found(campaign(root, n=5)[1:], capsys, 1)
    assert claim["word"] == "PROMISING" and claim["failed"] == ["all_attempts"]


def test_what_asks_for_a_reader_stands_beside_the_word(root, capsys):
    logs = campaign(root, change=setting(script=SCRIPT + b"import threading\n"), which=None)
    assert main(["verify", *map(str, logs)]) == 0
    assert capsys.readouterr().out.strip().endswith("(REVIEW: scan)")


def test_losses_beyond_all_sense_end_in_a_word(root, capsys):
    def huge(run):
        run.vals[-1][1] = 1e308 / run.manifest["seed"]
    assert found(campaign(root, change=huge, which=None), capsys, 1)["word"] == "NOT SHOWN"


def test_logs_of_two_tracks_are_no_claim(root, capsys):
    with open(root / "harness" / "tracks.toml", "a") as f:
        f.write((root / "harness" / "tracks.toml").read_text().replace("[tiny]", "[other]"))
    assert main(["verify", *map(str, campaign(root, change=change("track", "other")))]) == 2
    assert "tracks other, tiny" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\0\xff",
                                  b"Traceback (most recent call last):\nValueError: x\n"])
def test_what_is_no_log_ends_in_one_line_and_2(data, root, capsys):
    (root / "x.txt").write_bytes(data)
    assert main(["verify", str(root / "x.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_log_or_ledger_that_is_not_there_ends_in_2(root, capsys):
    log = str(campaign(root, n=1)[0])
    for words in (["none.txt"], [log, "--ledger", "none.jsonl"], [str(root / "data")]):
        assert main(["verify", *words]) == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_track_that_this_checkout_does_not_have_ends_in_2(root, capsys):
    assert main(["verify", *map(str, campaign(root, change=change("track", "theirs"), which=None))]) == 2
    assert "track theirs is not in this checkout's harness/tracks.toml" in capsys.readouterr().err


def test_all_records_below_a_folder_are_verified_one_by_one(root, capsys):
    logs = campaign(root)
    for name in ("One", "Two"):
        main(["submit", *map(str, logs), "--name", name, "--to", str(root / "records")])
    capsys.readouterr()
    assert main(["verify", "--json", str(root / "records")]) == 0
    assert [claim["word"] for claim in json.loads(capsys.readouterr().out)] == ["PROVEN", "PROVEN"]


def test_a_claim_that_cannot_be_read_does_not_stop_the_others(root, capsys):
    logs = campaign(root)
    for name in ("One", "Two"):
        main(["submit", *map(str, logs), "--name", name, "--to", str(root / "records")])
    shutil.rmtree(root / "records" / "tiny" / "2026-01-01_One" / "logs")
    capsys.readouterr()
    assert main(["verify", "--json", str(root / "records"), str(logs[0])]) == 2
    out, err = capsys.readouterr()
    assert [claim["word"] for claim in json.loads(out)] == ["PROVEN", "NOT SHOWN"]
    assert err.count("\n") == 1 and "2026-01-01_One" in err


def test_the_runs_of_all_experiments_are_no_claim(root, capsys):
    """Of a fresh checkout `verify records` made one claim out of records/runs, and called it INVALID."""
    log = campaign(root / "records")[0]
    assert main(["verify", str(root / "records")]) == 2
    assert "no record lies below" in capsys.readouterr().err
    assert main(["verify", str(root / "records"), str(log)]) == 2
    assert "1 log decides nothing" in capsys.readouterr().out


def test_a_log_of_another_format_is_not_called_sound(capsys):
    main(["verify", str(next((Path(__file__).parents[1] / "fixtures").glob("layout_*")))])
    out = capsys.readouterr().out
    assert "nothing speaks against it, but the format shows little" in out and "sound" not in out


def test_public_logs_are_never_invalid_for_being_old(capsys):
    """Every layout of the public speedrun's logs, made up; what they cannot show is unknown."""
    for path in sorted((Path(__file__).parents[1] / "fixtures").glob("layout_*")):
        main(["verify", "--json", str(path)])
        [claim] = json.loads(capsys.readouterr().out)
        assert claim["word"] != "INVALID" or "not finite" in claim["reason"], (path.name, claim)
        assert not [c for c in claim["checks"] if c["result"] == "fail" and c["name"] != "significance"]
        unknown = {c["result"] for c in claim["checks"] if c["name"] in ("harness", "wall", "lines")}
        assert unknown == {"unknown"}


def test_verify_loads_neither_scipy_nor_torch_for_one_log(root):
    log = campaign(root, n=1)[0]
    code = ("import sys\nfrom pathlib import Path\nfrom records.tools.read import tracks\n"
            "from records.__main__ import main\n"
            f"tracks.ROOT = Path({str(root)!r}); main(['verify', {str(log)!r}])\n"
            "heavy = {'torch', 'numpy', 'scipy'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_a_log_of_todays_harness_passes_all_checks(project, monkeypatch, capsys):
    """A real run, with flags that make it tiny: these alone keep it from being a record."""
    monkeypatch.setattr(tracks, "ROOT", project.folder)
    harness = (project.folder / "harness").glob("*.py")
    sources = {path.name: sha256(path.read_bytes()) for path in harness}
    accepted = sha256(canonical(sources).encode())
    rows = project.folder / "harness" / "tracks.toml"
    if accepted not in rows.read_text():
        rows.write_text(rows.read_text().replace("[harness]\n", f'[harness]\n{accepted} = "today"\n'))
    [done] = project.many(("train_gpt2.py", []))
    claim = found([done["log"]], capsys, 1)
    assert claim["failed"] == ["code"] and "overrides" in claim["checks"][4]["evidence"]
    unknown = [c["name"] for c in claim["checks"] if c["result"] == "unknown"]
    # nobody pinned the tiny data, and with overrides it is no attempt
    assert unknown == ["data", "all_attempts", "significance", "race", "rebuilt"]


def test_the_example_of_the_help_runs(root, monkeypatch, capsys):
    main(["submit", *map(str, campaign(root)), "--name", "Muon", "--to", str(root / "records")])
    folder = root / "records" / "sample" / "2026-11-22_Muon"
    folder.parent.mkdir()
    (root / "records" / "tiny" / "2026-01-01_Muon").rename(folder)
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    example = capsys.readouterr().out.strip().split("\n")[-1]
    assert example == "example: python -m records verify records/sample/2026-11-22_Muon"
    monkeypatch.chdir(root)
    assert main(example.split()[4:]) == 1  # it runs; the folder is not the one that the logs name
    assert "rebuilt" in capsys.readouterr().out and folder.is_dir()


# What happened elsewhere (public threads), made again on small logs: the command and the check that meet it.

def traceback(run):
    run.end.update(status="failed", type="RuntimeError", message="out of memory", traceback="Traceback ...")


INCIDENTS = {
    "a blob holds code that nobody can read": ("scan", setting(script=SCRIPT + b"exec(BLOB)\n"), None),
    "15 records trained on validation documents": (
        "data", change("data.train", [{"file": "v_0.bin", "tokens": 1000, "sha256": "e" * 64}]), None),
    "the only log is a traceback": ("status", traceback, None),
    "the third seed came from another configuration": ("code", change("hyperparameters.batch_tokens", 32), 2),
}


@pytest.mark.parametrize("what", INCIDENTS)
def test_verify_meets_the_incident(what, root, capsys):
    check, change, which = INCIDENTS[what]
    logs = campaign(root, change=change, which=which)
    claim = found(logs, capsys, 0 if check == "scan" else 1)
    assert check in claim["failed"] + claim["review"]


def test_the_log_of_another_feature_than_the_code_is_met(root, capsys):
    """A log showed a feature that the submitted code lacked: here the log is the code, by its sha256."""
    logs = campaign(root)
    resealed(logs[0], b"print('train')", b"print('trial')")
    assert found(logs, capsys, 1)["failed"] == ["hashes"]


@pytest.mark.parametrize("file, old, new", [
    ("README.md", "900 active", "26500000 active"), ("record.json", "4.901", "4.801"),
    ("record.json", '"n": 4', '"n": 16')])
def test_a_claim_that_is_not_its_logs_is_met(file, old, new, root, capsys):
    """A README of another model; two of three seeds mistyped; n = 16 where there were 10."""
    main(["submit", *map(str, campaign(root)), "--name", "X", "--to", str(root / "records")])
    folder = root / "records" / "tiny" / "2026-01-01_X"
    (folder / file).write_text((folder / file).read_text().replace(old, new, 1))
    capsys.readouterr()
    assert found([folder], capsys, 1)["failed"] == ["rebuilt"]


def test_a_p_value_from_repeats_of_a_seed_is_met(root, capsys):
    def repeat(run):
        run.manifest["seed"], run.train = 1, sound(1).train
    claim = found(campaign(root, change=repeat, which=None), capsys, 1)
    assert claim["word"] == "NOT SHOWN" and "one run has no spread" in claim["reason"]


def test_two_attempts_in_one_file_are_met(root, capsys):
    logs = campaign(root)
    logs[0].write_bytes(logs[0].read_bytes() + logs[1].read_bytes())
    assert found(logs, capsys, 1)["failed"] == ["framing"]


def test_a_time_from_another_host_is_no_claim_of_speed(root, capsys):
    claim = found(campaign(root), capsys, 0)
    [race] = [check for check in claim["checks"] if check["name"] == "race"]
    assert race["result"] == "unknown" and "no claim of speed" in race["evidence"]


def test_a_mean_above_its_threshold_is_not_called_better():
    """nanochat's run 4, "higher than the threshold" of 0.256525: p = 0.383. Turned round, lower is better."""
    scores = ["0.25373", "0.2584", "0.25489", "0.2568", "0.25732", "0.26765", "0.25119"]
    verdict = significance.decide([f"-{score}" for score in scores], "-0.256525", 0.01)
    assert verdict.word == "NOT SHOWN" and verdict.test.p == pytest.approx(0.38317772008672, rel=1e-9)


def test_the_number_of_runs_of_a_rival_is_taken_as_it_was():
    """The public optimizer track printed 0.0027 with n = 16 for a result of 10 runs: it is 0.00246."""
    printed, right = (significance.pairwise_rule("0.0011", 0, 10, n)[1] for n in (16, 10))
    assert printed == pytest.approx(0.0027287642, rel=1e-5) and right == pytest.approx(0.0024596748, rel=1e-5)


def test_a_copied_record_folder_is_met(root, capsys):
    main(["submit", *map(str, campaign(root)), "--name", "X", "--to", str(root / "records")])
    folder = root / "records" / "tiny" / "2026-01-01_X"
    shutil.copytree(folder, folder.with_name("2026-01-01_Y"))
    capsys.readouterr()
    assert found([folder.with_name("2026-01-01_Y")], capsys, 1)["failed"] == ["rebuilt"]
