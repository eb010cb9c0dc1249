"""Code comes out of logs and trees onto the right harness, and nothing of a log takes the referee's place."""
import io
import os
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
from synthetic import HARNESS, campaign, change, digest, runnable, setting, sound, write
from tiny import RECORD, ROOT, TINY, Project, result

from harness.front.launch import Place
from harness.plan import Options
from records.tools.again import launch as launches
from records.tools.read.log import read_log
from records.tools.read.logs import locate
from records.tools.read.values import ReadError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose own harness is that of the synthetic logs."""
    root = runnable(tmp_path / "checkout")
    monkeypatch.setattr(launches, "ROOT", root)
    return root


RECORDS = sorted((ROOT / "records").glob("*/*/record.json"))


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


def test_a_file_that_was_loaded_late_is_no_part_of_the_harness(root, tmp_path):
    def hostile(run):
        run.late = {"harness/late.py": b"evil", "harness/tracks.toml": b"evil"}
    code = launches.load(campaign(tmp_path, 1, hostile)[0])
    assert not [path for path, source in {**code.base, **code.files}.items() if b"evil" in source]


def test_an_accepted_older_harness_is_the_logs_and_what_starts_it_the_checkouts(root, tmp_path):
    """The launcher that the old harness had stays a file of its digest, and starts nothing."""
    old = {**HARNESS, "harness/launch.py": b"old\n"}
    tracks = root / "harness" / "tracks.toml"
    tracks.write_text(tracks.read_text().replace(digest(HARNESS), digest(old)))
    (root / "harness" / "run.py").write_bytes(b"steps = 9\n")
    (root / "harness" / "front").mkdir()
    (root / "harness" / "front" / "launch.py").write_bytes(b"new\n")
    [log] = campaign(tmp_path, 1, setting(files={**old, "harness/front/launch.py": b"evil"}))
    base = launches.load(log).base
    assert {path: base[path] for path in old} == old and launches.harness_digest(base) == digest(old)
    assert base["harness/front/launch.py"] == b"new\n" and base["run.sh"] == b"exit 7\n"


def test_the_row_is_this_checkouts_and_its_rules_must_be_the_logs(root, tmp_path):
    """Once the row came from the harness's commit: a rerun to 4.365 nats announced 4.561.

    A row out of a log would name the command that the launcher runs where shards are missing.
    """
    [log] = campaign(tmp_path / "1", 1, change("track_row.fetch", "evil"))
    table = tomllib.loads(launches.load(log).base["harness/tracks.toml"].decode())
    assert set(table) == {"tiny"} and table["tiny"]["fetch"] == "false" and table["tiny"]["target"] == 5.0
    [log] = campaign(tmp_path / "2", 1, change("track_row.target", 5.2))
    assert "another than this checkout's: target is 5.2, this checkout says 5.0" in refused(log)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.parent.name)
def test_every_shipped_record_finds_its_harness_in_its_log_and_the_row_that_it_was_held_to(record):
    code = launches.load(record.parent)
    manifest = code.log.manifest
    assert launches.harness_digest(code.base) == manifest["code"]["harness"]
    row = tomllib.loads(code.base["harness/tracks.toml"].decode())[code.track]
    assert row["target"] == manifest["track_row"]["target"]
    name = record.parent.name
    assert launches.find_log(locate(name)).path.resolve() == code.log.path
    *_, last = sorted(record.parents[1].glob(f"*_{name.partition('_')[2]}"))
    assert locate(name.partition("_")[2]).resolve() == last


def test_this_checkouts_launcher_starts_the_harness_of_a_shipped_record(project):
    """A run of the tiny track on the referee that the record's log carries."""
    log = launches.find_log(RECORD)
    row = (project.folder / "harness" / "tracks.toml").read_text().partition("[tiny]")[2]
    shutil.rmtree(project.folder / "harness")
    for path, source in launches.harness_of(log).items():
        (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / path).write_bytes(source)
    with open(project.folder / "harness" / "tracks.toml", "a") as f:
        f.write(f"[tiny]{row}")
    project.run(1)
    [new] = project.logs()
    assert result(new)["status"] == "ok"
    assert read_log(new).manifest["code"]["harness"] == log.manifest["code"]["harness"]


@pytest.mark.slow
@pytest.mark.parametrize(  # CI takes every second: of each harness
    "record", [pytest.param(path, marks=[pytest.mark.long] * (i % 2)) for i, path in enumerate(RECORDS)],
    ids=[path.parent.name for path in RECORDS])
def test_a_shipped_record_runs_again_from_its_log(record, tmp_path):
    """Two steps; before the first, the loss is that of the record to the bit where weights start at zero."""
    code = launches.load(record.parent)
    flags = [*code.flags, f"--seed={code.log.manifest['seed']}", "--nproc_per_node=1", "--stop_at_step=2"]
    with launches.Signals() as signals:
        new = read_log(launches.run(code, code.track, flags, tmp_path, signals))
    assert new.manifest["code"]["digest"] == code.digest and new.end["status"] == "stopped"
    assert abs(new.vals[0].val_loss - code.log.vals[0].val_loss) < 1e-5  # float32, summed in another order


@pytest.mark.parametrize("break_it, message", [
    (setting(files={**HARNESS, "harness/run.py": b"steps = 1\n"}), "could not tell: harness/tracks.toml "),
    (change("track", "nowhere"), "not in this checkout"),
    (setting(more=[("late", {"path": "harness/run.py"})]), "harness digest in its manifest is not that of"),
    (setting(files={**HARNESS, "train.py": b"x"}), "two files"),
    *((change("script", path), "a place of the harness's")
      for path in ("harness/train.py", "Harness/train.py", "run.sh")),
    *((change("overrides", flags), "is no hyperparameter")
      for flags in ({"python": "/tmp/evil"}, {"script": "/tmp/evil"}, {"a b": 1}, {"lr": {}}, {"lr": "\0"},
                    {"lr": "\ud800"}, {"lr": "9" * 200_000}))])
def test_a_log_that_cannot_be_run_as_it_was_is_refused_in_one_line(break_it, message, root, tmp_path):
    words = refused(campaign(tmp_path, 1, break_it)[0])
    assert message in words and "\n" not in words


def test_no_flag_of_the_launcher_is_taken_for_a_hyperparameter_of_a_log():
    assert {*Options.__dataclass_fields__, *Place._fields} <= launches.RESERVED


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


def test_a_records_folder_is_its_first_log_by_name_and_other_folders_are_refused(root, tmp_path, capsys):
    log = write(tmp_path / "record" / "logs", sound(3))
    assert launches.load(tmp_path / "record").log.path == log
    assert capsys.readouterr().err == f"record: its first log, {log.name}\n"
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
    launches.consent([code], yes=True)
    terminal = io.StringIO("n\ny\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(ReadError, match="nobody said yes"):
        launches.consent([code], yes=False)
    launches.consent([code], yes=False)


def test_where_this_python_lacks_torch_that_of_run_sh_trains(root, monkeypatch):
    """`python3 -m records race` after ./run.sh had made a .venv was refused: the tools need no torch."""
    assert launches.torch_python() == launches.sys.executable
    monkeypatch.setattr(launches.importlib.util, "find_spec", lambda name: None)
    (root / "run.sh").write_text('[ "$1" = --environment ] && [ -f "$2" ] && echo /some/python\n')
    assert launches.torch_python() == "/some/python"
    (root / "run.sh").write_text("exit 2\n")
    with pytest.raises(ReadError, match="has no torch"):
        launches.torch_python()


def rewriting(project: Project) -> list[str]:
    """Make the project's script rewrite its log after the run; return the flags of a launch."""
    project.submission("rewrites.py", ("    main()\n", """    main()
    import pathlib
    [log] = pathlib.Path(__file__).with_name("records").glob("runs/*.txt")
    log.write_bytes(log.read_bytes().replace(b"val_loss:", b"val_loss:0"))
"""))
    return ["--nproc_per_node=1", "--track=tiny", f"--script={project.folder / 'rewrites.py'}", *TINY]


def test_a_log_that_its_script_rewrites_after_the_run_is_not_believed(project):
    with pytest.raises(ReadError, match="the log was changed after the run"), launches.Signals() as signals:
        launches.launch(project.folder, rewriting(project), project.folder, signals)


def test_a_log_as_the_launcher_was_told_is_given_back_with_what_it_holds(project):
    flags = ["--nproc_per_node=1", "--track=tiny", f"--script={project.folder / 'train_gpt2.py'}", *TINY]
    with launches.Signals() as signals:
        logs = launches.launch(project.folder, flags, project.folder, signals)
    assert logs == {path: path.read_bytes() for path in project.logs()} and len(logs) == 1


def test_a_log_of_which_no_end_was_told_is_believed_where_it_has_none(root, tmp_path):
    log = campaign(tmp_path, 1)[0]
    whole = log.read_bytes()
    launches.believed(log, whole[:whole.index(b"#:end")], None)
    with pytest.raises(ReadError, match="changed after the run"):
        launches.believed(log, whole, None)
    assert not launches.tells(launches.load(log).base)


@pytest.mark.parametrize("told, device, visible, places", [
    ("3 2", None, None, [{"CUDA_VISIBLE_DEVICES": i} for i in "012"]), ("3 2", "cpu", None, [{}, {}]),
    ("2 8", None, "5,GPU-7", [{"CUDA_VISIBLE_DEVICES": i} for i in ("5", "GPU-7")]),
    ("0 4", None, None, [{}] * 4)])
def test_runs_at_once_get_a_gpu_each_of_those_that_are_visible_or_a_core(told, device, visible, places,
                                                                         monkeypatch):
    monkeypatch.setattr(launches, "told_by", lambda code, words: told)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launches.places(device) == places


def test_a_signal_ends_all_runs_that_were_made_at_once():
    with launches.Signals() as signals:
        signals.children += [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
        os.kill(os.getpid(), signal.SIGTERM)
        assert [child.wait(60) for child in signals.children] == [-signal.SIGTERM] * 2 and signals.caught
    for child in signals.children:
        child.stdin.close()
