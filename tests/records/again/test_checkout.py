"""python -m records checkout: a record's script lands where it is edited, and nothing unsaved goes."""
import shlex
import subprocess
from pathlib import Path

import pytest
from synthetic import HARNESS, campaign, change, setting
from tiny import RECORD, record_script

from records.tools.again import launch as launches
from records.tools.read import tracks


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit, which holds a train_gpt2.py and a record, and nobody to ask."""
    root = tmp_path / "checkout"
    record = root / "records" / "sample" / "a_record"
    (record / "logs").mkdir(parents=True)
    log = min((RECORD / "logs").glob("*.txt"))
    (record / "logs" / log.name).write_bytes(log.read_bytes())
    (record / "record.json").write_text("{}")
    (root / "train_gpt2.py").write_text("first = 1\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        git(root, *words)
    for module in (launches, tracks):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=root, check=True)


def test_a_shipped_records_script_takes_the_place_of_a_committed_one_without_a_question(root, call):
    out, err = call("checkout", "a_record")
    assert (root / "train_gpt2.py").read_text() == record_script()
    assert out.strip().split("\n")[-1] == "./run.sh --track=sample" and "places to read" in err
    out = call("checkout", "records/sample/a_record", "mine here.py").out
    assert out.endswith("./run.sh '--script=mine here.py' --track=sample\n")
    assert (root / "mine here.py").read_text() == record_script()


@pytest.mark.parametrize("committed_before", [False, True])
def test_what_is_in_no_commit_is_not_overwritten(committed_before, root, call):
    edited = root / "train_gpt2.py"
    edited.write_text("edited = 1\n")
    if committed_before:
        git(root, "commit", "-qam", "an edit")
        edited.write_text("first = 1\n")  # that of the commit before is as safe
    err = call("checkout", "a_record", code=0 if committed_before else 2).err
    assert committed_before or "in no commit; commit it, or name another FILE" in err
    assert (edited.read_text() == record_script()) == committed_before


def test_an_untracked_file_stays_and_a_records_script_may_go(root, call):
    (root / "mine.py").write_text("mine = 1\n")
    call("checkout", "a_record", "mine.py", code=2)
    assert (root / "mine.py").read_text() == "mine = 1\n"
    (root / "mine.py").write_text(record_script())
    call("checkout", "a_record", "mine.py")
    assert "not a file" in call("checkout", "a_record", "records", code=2).err


@pytest.mark.parametrize("file", ["harness/run.py", "records/mine.py", "README.md"])
def test_no_script_lands_where_the_projects_own_code_or_pages_lie(file, root, call):
    """A record's script took the referee's place, for it was in a commit and so not lost."""
    assert "no place for a submission" in call("checkout", "a_record", root / file, code=2).err


def test_a_folder_without_git_loses_nothing_either(root, tmp_path, call):
    (tmp_path / "there.py").write_text("x = 1\n")
    call("checkout", "a_record", tmp_path / "there.py", code=2)
    call("checkout", "a_record", tmp_path / "new.py")


def test_a_strangers_log_is_scanned_and_wants_a_yes(root, tmp_path, call):
    [log] = campaign(tmp_path, 1, setting(script=b"from harness.run import open_run\nexec('x')\n"))
    err = call("checkout", log, "theirs.py", code=2).err
    assert "train.py:2: builds or loads code: exec('x')" in err
    assert "give --yes" in err and not (root / "theirs.py").exists()
    call("checkout", log, "theirs.py", "--yes")
    assert (root / "theirs.py").read_bytes().endswith(b"exec('x')\n")


def test_overrides_are_in_the_command_that_runs_it(root, tmp_path, call):
    [log] = campaign(tmp_path, 1, change("overrides", {"adam_betas": [0.8, 0.9]}))
    command = shlex.split(call("checkout", log, "--yes").out.strip().split("\n")[-1])
    assert command == ["./run.sh", "--track=tiny", "--adam_betas=[0.8, 0.9]"]


def test_a_script_with_helpers_is_refused_unless_the_checkout_has_them_so(root, tmp_path, call):
    [log] = campaign(tmp_path, 1, setting(files={**HARNESS, "lab/model.py": b"x = 1\n"}))
    err = call("checkout", log, "--yes", code=2).err
    assert "needs lab/model.py" in err and "records extract LOG DIR" in err
    (root / "lab").mkdir()
    (root / "lab" / "model.py").write_text("x = 1\n")
    call("checkout", log, "--yes")


@pytest.mark.parametrize("words, message", [
    (["nowhere"], "nowhere: no file, and no run"), (["no.txt"], "cannot be read"),
    (["train_gpt2.py"], "no log of format 1"),
    (["records"], "neither a working tree (no run.sh) nor a record"),
    (["a_record", "--run", "--script", "x.py"], "--script together with --from"),
])
def test_what_is_no_record_or_log_is_refused_in_one_line(words, message, root, call):
    assert message in call("checkout", *words, code=2).err.strip().split("\n")[-1]
    assert (root / "train_gpt2.py").read_text() == "first = 1\n"
