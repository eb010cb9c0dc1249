"""verify: one word a claim, its exit code, and the incidents elsewhere that one command would have met."""
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from broken import near, worse
from small_logs import FIXTURES, write_public
from synthetic import OLD_HARNESS, SCRIPT, campaign, change, checkout, ending, judging, setting, sound

from harness.runlog import ROOT, canonical, sha256
from records.tools.read import tracks
from records.tools.publish import verify
from records.__main__ import COMMANDS, main


@pytest.fixture
def found(call) -> Callable:
    """Return found(code, *words) -> what verify --json, with that exit code, says of the one claim."""
    def found(code: int, *words: object) -> dict:
        [claim] = json.loads(call("verify", "--json", *words, code=code).out)
        return claim | {"failed": [c["name"] for c in claim["checks"] if c["result"] == "fail"]}
    return found


def huge(run):
    run.vals[-1][1] = 1e308 / run.manifest["seed"]


@pytest.mark.parametrize("n, change, which, word, code", [
    (4, None, 0, "PROVEN", 0), (5, None, 0, "PROMISING", 0), (1, None, 0, "NOT SHOWN", 0),
    (3, near, None, "NOT SHOWN", 0), (4, near, None, "NOT SHOWN", 1), (4, worse, None, "REFUTED", 1),
    (4, ending(status="stopped"), 0, "INVALID", 1), (4, setting(script=SCRIPT + b"#\n"), 0, "INVALID", 1),
    (4, huge, None, "NOT SHOWN", 1)])
def test_the_word_and_its_exit_code(n, change, which, word, code, root, found):
    assert found(code, *campaign(root, n, change, which))["word"] == word


def test_each_check_prints_one_line_with_its_evidence_and_one_log_is_called_sound(root, call):
    lines = call("verify", *campaign(root)).out.strip().split("\n")
    assert lines[0] == "track tiny, 4 runs" and lines[-1].startswith("PROVEN: mean 4.9025")
    assert len(lines) == 2 + len(verify.CHECKS)
    assert all(": " in line for line in lines[1:])
    out = call("verify", *campaign(checkout(root / "one"), n=1)).out
    assert "sound, but 1 log decides nothing; the first declared look is at 4 runs" in out


def test_missing_attempts_leave_a_claim_promising_at_most(root, found):
    claim = found(1, *campaign(root, n=5)[1:])
    assert claim["word"] == "PROMISING" and claim["failed"] == ["all_attempts"]


def test_what_asks_for_a_reader_stands_beside_the_word(root, call):
    """A blob of code that nobody can read became a record elsewhere."""
    logs = campaign(root, change=setting(script=SCRIPT + b"exec(BLOB)\n"), which=None)
    assert call("verify", *logs).out.strip().endswith("(REVIEW: scan)")


@pytest.mark.parametrize("change, words", [
    (setting(verdict=None), "no verdict of the judge"),
    (judging(sandbox="none"), "no whole sandbox"), (judging(sandbox="seccomp"), "no whole sandbox"),
    (judging(cuts=1), "1 cuts of at least 128"), (setting(script=SCRIPT + b"exec(BLOB)\n"), "train.py:3"),
    (change("process", None), "the log does not tell")])
def test_a_new_claim_is_promising_at_most_while_something_is_open(change, words, root, found):
    claim = found(0, *campaign(root, change=change, which=None))
    assert claim["word"] == "PROMISING" and words in claim["reason"]


def test_a_review_that_accepted_toml_takes_for_each_of_its_logs_holds_no_claim_back(root, found, refused):
    logs = campaign(root, change=change("process.runs_before", 1), which=None)
    taken = root / "records" / "accepted.toml"
    taken.parent.mkdir()
    shas = [run["sha256"] for run in found(0, *logs)["runs"]]
    for listed, check, word in ((shas, "untimed", "PROVEN"), (shas[1:], "untimed", "PROMISING"),
                                (shas, "scan", "PROMISING")):
        taken.write_text(f'[[review]]\ncheck = "{check}"\nlogs = {listed}\nreason = "it was a rehearsal"\n')
        claim = found(0, *logs)
        assert (claim["word"], claim["review"]) == (word, ["untimed"])
    for text in ('[[review]]\ncheck = "untimed"\nlogs = []\n', "[[review", "review = [1]"):
        taken.write_text(text)
        assert "records/accepted.toml: " in refused("verify", logs[0])


@pytest.mark.parametrize("status, failed", [("ok", []), ("stopped", ["status"])])
def test_another_log_of_a_closed_harness_is_closed_whatever_else_is_wrong(status, failed, root, found):
    """It is neither proof nor fraud: somebody ran an old checkout."""
    def old(run):
        run.files = OLD_HARNESS
        run.end.update(status=status)
    claim = found(2, *campaign(root, change=old, which=None))
    assert claim["word"] == "CLOSED" and "run it on the current one" in claim["reason"]
    assert claim["failed"] == failed


def test_logs_of_two_tracks_and_of_one_that_the_checkout_does_not_have_are_no_claim(root, refused):
    logs = campaign(root, change=change("track", "other"), which=None)
    assert "track other is not in this checkout's harness/tracks.toml" in refused("verify", *logs)
    with open(root / "harness" / "tracks.toml", "a") as f:
        f.write((root / "harness" / "tracks.toml").read_text().replace("[tiny]", "[other]"))
    assert "tracks other, tiny" in refused("verify", *logs, *campaign(checkout(root / "more"), n=1))


def test_what_is_no_log_or_is_not_there_ends_in_one_line_and_2(root, refused):
    [log] = campaign(root, n=1)
    for data in (b"", b"hello\n", b"\0\xff", b"Traceback (most recent call last):\nValueError: x\n"):
        (root / "x.txt").write_bytes(data)
        refused("verify", root / "x.txt")
    for words in (["none.txt"], [log, "--ledger", "none.jsonl"], [root / "data"]):
        refused("verify", *words)


def test_all_records_below_a_folder_are_verified_one_by_one(record, root, call):
    """One that cannot be read does not stop the others."""
    [log, *_] = logs = sorted((root / "runs").glob("*.txt"))
    call("submit", *logs, "--name", "Two", "--to", root / "records")
    claims = json.loads(call("verify", "--json", root / "records").out)
    assert [claim["word"] for claim in claims] == ["PROVEN", "PROVEN"]
    shutil.rmtree(record / "logs")
    out, err = call("verify", "--json", root / "records", log, code=2)
    assert [claim["word"] for claim in json.loads(out)] == ["PROVEN", "NOT SHOWN"]
    assert err.count("\n") == 1 and record.name in err


def test_the_runs_of_all_experiments_are_no_claim(root, call, refused):
    """Of a fresh checkout `verify records` made one claim out of records/runs, and called it INVALID."""
    log = campaign(root / "records")[0]
    assert "no record lies below" in refused("verify", root / "records")
    assert "one run has no spread" in call("verify", root / "records", log, code=2).out


def test_each_folder_named_by_a_date_is_a_claim_in_one_line_with_a_sum_below(tmp_path, root, call):
    """`verify FOLDER-of-records` made one claim of 1,110 public runs."""
    for name, losses in (("2026-05-01_A/its", (3.27, 3.271)), ("20260502_b", (3.29,)), ("", (3.2749,))):
        for i, loss in enumerate(losses):
            write_public(tmp_path / "public" / name / f"{i}.txt", {0: 11, 100: loss + 0.01, 200: loss},
                         seconds=True, code=name, ms=60 + i)
    out = call("verify", tmp_path / "public", code=1).out.splitlines()
    assert [line.split()[:2] for line in out[:3]] == [
        ["PROMISING", "0.txt"], ["PROMISING", "2026-05-01_A"], ["REFUTED", "20260502_b"]]
    assert "(track_3_optimization, 2 runs): mean 3.2705, 2 runs, p" in out[1]
    assert out[3] == "3 claims: 2 PROMISING, 1 REFUTED"
    [claim] = json.loads(call("verify", "--json", tmp_path / "public" / "2026-05-01_A").out)
    assert len(claim["runs"]) == 2


@pytest.mark.parametrize("code, seconds, track, word", [
    ("GPT(num_layers=16, model_dim=1024)", False, "track_2_medium", "REFUTED"),
    ("n_layer=52", False, "scale_up_1.5B", "NOT SHOWN: no target"),
    ("x = 1  # n_layer=52 is for another day, as model_dim=1024", False, "fineweb", "PROMISING: mean"),
    ("", False, "fineweb", "PROMISING: mean"),
    ("", True, "track_3_optimization", "PROMISING: mean 2.9315, 4 runs, p 0 at sigma 0.0013")])
def test_a_public_log_is_judged_by_the_rule_of_its_track(code, seconds, track, word, tmp_path, root, call):
    """All were judged against 3.28 without a word."""
    with open(root / "harness" / "tracks.toml", "a") as file:
        file.write("[fineweb]\ntarget = 3.28\n")
    logs = [write_public(tmp_path / f"{i}.txt", {0: 11, 200: 2.93 + i / 1e3}, code=code, seconds=seconds,
                         ms=60 + i) for i in range(4)]
    out = call("verify", *logs, code=int(word[0] != "P")).out
    assert out.startswith(f"track {track}, 4 runs\n") and f"\n{word}" in out
    assert "\nPROMISING: mean 2.9315, sd" in call("verify", *logs, "--track", "fineweb").out


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("layout_*")), ids=lambda path: path.name)
def test_public_logs_are_never_invalid_for_being_old_nor_called_sound(path, capsys):
    """Every layout of the public speedrun's logs, made up; what they cannot show is unknown."""
    main(["verify", "--json", str(path)])
    [claim] = json.loads(capsys.readouterr().out)
    assert claim["word"] != "INVALID" or "not finite" in claim["reason"]
    assert not [c for c in claim["checks"] if c["result"] == "fail" and c["name"] != "significance"]
    unknown = {c["result"] for c in claim["checks"] if c["name"] in ("harness", "wall", "judge")}
    assert unknown == {"unknown"}
    main(["verify", str(path)])
    out = capsys.readouterr().out
    assert "sound" not in out
    assert out.count("unknown") <= 4 and "this layout does not show hashes, sequence, harness" in out


def test_verify_loads_neither_a_heavy_package_nor_anything_of_ours_for_one_log(root):
    code = ("import sys\nfrom pathlib import Path\nfrom records.tools.read import tracks\n"
            "from records.__main__ import COMMANDS, main\n"
            f"tracks.ROOT = Path({str(root)!r}); main(['verify', {str(campaign(root, n=1)[0])!r}])\n"
            "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'harness', 'lab', 'train_gpt2'}\n"
            "sys.exit(str(heavy & {name.partition('.')[0] for name in sys.modules} or ''))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "", done.stderr


def test_a_log_of_todays_harness_passes_all_checks(project, monkeypatch, found):
    """A real run, with flags that make it tiny: these alone keep it from being a record."""
    monkeypatch.setattr(tracks, "ROOT", project.folder)
    harness = (project.folder / "harness").glob("*.py")
    sources = {path.name: sha256(path.read_bytes()) for path in harness}
    accepted = sha256(canonical(sources).encode())
    rows = project.folder / "harness" / "tracks.toml"
    if f'current = "{accepted}"' not in rows.read_text():
        text = re.sub("(?m)^current = .*", f'current = "{accepted}"', rows.read_text())
        rows.write_text(text.replace("[harness.accepted]\n", f'[harness.accepted]\n{accepted} = "today"\n'))
    [done] = project.many(("train_gpt2.py", []))
    claim = found(1, done["log"])
    assert claim["failed"] == ["code"] and "overrides" in claim["checks"][4]["evidence"]
    unknown = [c["name"] for c in claim["checks"] if c["result"] == "unknown"]
    # nobody pinned the tiny data or judged the run, and with overrides it is no attempt of a campaign
    expected = ["data", "judge", "all_attempts", "seeds", "significance", "race", "rebuilt"]
    assert [name for name in unknown if name not in ("untimed", "imports")] == expected


def test_the_example_of_the_help_runs(record, root, monkeypatch, call):
    folder = root / "records" / "sample" / "2026-11-22_Muon"
    folder.parent.mkdir()
    record.rename(folder)
    monkeypatch.chdir(root)
    words = COMMANDS["verify"][1].split()[3:]
    assert words == ["verify", "records/sample/2026-11-22_Muon"]
    assert "rebuilt" in call(*words, code=1).out  # it runs; the folder is not the one that the logs name


def test_a_p_value_from_repeats_of_a_seed_is_met(root, found):
    def repeat(run):
        run.manifest["seed"], run.train = 1, sound(1).train
    claim = found(1, *campaign(root, change=repeat, which=None))
    assert claim["word"] == "NOT SHOWN" and "one run has no spread" in claim["reason"]


def test_a_time_from_another_host_is_no_claim_of_speed(root, found):
    [race] = [check for check in found(0, *campaign(root))["checks"] if check["name"] == "race"]
    assert race["result"] == "unknown" and "no claim of speed" in race["evidence"]
