"""Code comes out of logs and trees onto the right harness, and nothing of a log takes the referee's place."""
import subprocess
from pathlib import Path

import pytest
from synthetic import HARNESS, campaign, change, checkout, digest, setting, sound, write

from records.tools.again import launch as launches
from records.tools.read.log import read_log
from records.tools.read.values import ReadError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose own harness is that of the synthetic logs."""
    root = checkout(tmp_path / "checkout")
    for path, source in {**HARNESS, "run.sh": b"exit 7\n", "requirements.txt": b"torch\n",
                         "data/tiny/vocab.bpe": b"#version: 0.2\n"}.items():
        (root / path).write_bytes(source)
    monkeypatch.setattr(launches, "ROOT", root)
    return root


def git(root: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def refused(path: Path) -> str:
    with pytest.raises(ReadError) as caught:
        launches.load(path)
    return str(caught.value)


def test_a_log_comes_out_with_this_checkouts_harness_and_its_own_digest(root, tmp_path):
    [log] = campaign(tmp_path, 1, setting(files={**HARNESS, "lab/model.py": b"x = 1\n"}))
    code = launches.load(log)
    assert code.files == {"train.py": sound(1).script, "lab/model.py": b"x = 1\n"}
    assert code.base["harness/run.py"] == HARNESS["harness/run.py"] and code.track == "tiny"
    assert code.digest == read_log(log).manifest["code"]["digest"]


def test_the_harness_is_never_taken_out_of_the_log(root, tmp_path):
    def hostile(run):
        run.late = {"harness/late.py": b"evil", "harness/tracks.toml": b"evil"}
    code = launches.load(campaign(tmp_path, 1, hostile)[0])
    assert not [path for path, source in {**code.base, **code.files}.items() if b"evil" in source]


def test_an_accepted_older_harness_comes_out_of_the_history(root, tmp_path):
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "old")
    commit = git(root, "rev-parse", "HEAD")
    tracks = root / "harness" / "tracks.toml"
    tracks.write_text(tracks.read_text().replace("0" * 40, commit))
    (root / "harness" / "run.py").write_bytes(b"steps = 9\n")
    code = launches.load(campaign(tmp_path, 1)[0])
    assert code.base["harness/run.py"] == b"steps = 8\n" and code.base["run.sh"] == b"exit 7\n"
    assert launches.harness_digest(code.base) == digest(HARNESS)


def test_a_commit_that_does_not_hold_what_tracks_toml_says_is_refused(root, tmp_path):
    git(root, "init", "-q")
    (root / "harness" / "run.py").write_bytes(b"steps = 9\n")
    [log] = campaign(tmp_path, 1)
    assert "not in this repository's history" in refused(log)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "other")
    tracks = root / "harness" / "tracks.toml"
    tracks.write_text(tracks.read_text().replace("0" * 40, git(root, "rev-parse", "HEAD")))
    assert "holds another harness" in refused(log)


@pytest.mark.parametrize("break_it, message", [
    (setting(files={**HARNESS, "harness/run.py": b"steps = 1\n"}), "could not tell: track tiny accepts no"),
    (change("track", "nowhere"), "not in this checkout"),
    (change("script", "harness/train.py"), "a place of the harness's"),
    (change("script", "Harness/train.py"), "a place of the harness's"),
    (change("script", "run.sh"), "a place of the harness's"),
    (change("overrides", {"python": "/tmp/evil"}), "is no hyperparameter"),
    (change("overrides", {"script": "/tmp/evil"}), "is no hyperparameter"),
    (change("overrides", {"a b": 1}), "is no hyperparameter"),
    (change("overrides", {"lr": {}}), "is no hyperparameter"),
    (change("overrides", {"lr": "\0"}), "is no hyperparameter"),
    (change("overrides", {"lr": "\ud800"}), "is no hyperparameter"),
    (change("overrides", {"lr": "9" * 200_000}), "is no hyperparameter"),
    (setting(files={**HARNESS, "train.py": b"x"}), "two files"),
])
def test_a_log_that_cannot_be_run_as_it_was_is_refused_in_one_line(break_it, message, root, tmp_path):
    words = refused(campaign(tmp_path, 1, break_it)[0])
    assert message in words and "\n" not in words


@pytest.mark.parametrize("script", ["../up.py", "/abs.py", "a/../../b.py", ".hidden.py", "RUN.SH"])
def test_an_unsafe_path_is_never_written(script, root, tmp_path):
    code = launches.load(campaign(tmp_path, 1, change("script", script))[0])
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ReadError), launches.Signals() as signals:
        launches.run(code, "tiny", [], tmp_path / "to", signals)
    assert set(tmp_path.rglob("*")) == before


def test_overrides_and_what_changes_the_run_become_flags_paths_and_checkpoints_do_not(root, tmp_path):
    def asked(run):
        run.manifest["overrides"] = {"lr": 0.1, "adam_betas": [0.8, 0.9], "dtype": "float32", "flag": True}
        run.manifest["launch"] = {"device": "cpu", "data": "/x", "resume": "/y", "checkpoint_every": 2}
    assert launches.load(campaign(tmp_path, 1, asked)[0]).flags == [
        "--device=cpu", "--adam_betas=[0.8, 0.9]", "--dtype=float32", "--flag=True", "--lr=0.1"]


def test_a_records_folder_is_its_first_log_and_other_folders_are_refused(root, tmp_path):
    log = write(tmp_path / "record" / "logs", sound(3))
    assert launches.load(tmp_path / "record").log.path == log
    assert "neither a working tree" in refused(tmp_path)
    (tmp_path / "x.txt").write_text("step:1/2 val_loss:3\n")
    assert "no log of format 1" in refused(tmp_path / "x.txt")


def test_a_tree_runs_its_script_and_what_that_imports_with_the_digest_of_its_log(root, tmp_path):
    files = {"lab/__init__.py": b"", "lab/model.py": b"from . import deep\n", "lab/deep.py": b"x = 1\n"}
    for path, source in {**files, "lab/unused.py": b"", "train_gpt2.py":
                         b"from harness.run import open_run\nfrom lab import model\n"}.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(source)
    code = launches.load(root)
    assert set(code.files) == {*files, "train_gpt2.py"} and code.track is None

    def same(run):
        run.script, run.files = code.files["train_gpt2.py"], {**HARNESS, **files}
    assert read_log(campaign(tmp_path, 1, same)[0]).manifest["code"]["digest"] == code.digest
    assert launches.load(root / "train_gpt2.py").digest == code.digest
    (tmp_path / "other.py").write_text("x = 1\n")
    assert "outside of this checkout" in refused(tmp_path / "other.py")


def test_a_run_without_a_log_says_its_exit_code(root, tmp_path):
    code = launches.load(campaign(tmp_path, 1)[0])
    with pytest.raises(ReadError, match="no log .exit code 7."), launches.Signals() as signals:
        launches.run(code, "tiny", [], tmp_path / "to", signals)


def test_without_terminal_and_yes_nothing_is_run(root, tmp_path, capsys, monkeypatch):
    code = launches.load(campaign(tmp_path, 1, setting(files={**HARNESS, "lab/a.py": b"exec('x')\n"}))[0])
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    with pytest.raises(ReadError, match="give --yes"):
        launches.consent([code], yes=False)
    assert "lab/a.py:1: builds or loads code: exec('x')" in capsys.readouterr().err
    assert launches.consent([code], yes=True)
