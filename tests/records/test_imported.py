"""python -m records import: a row reported elsewhere, written from logs alone."""
import json
import shutil
from pathlib import Path

import pytest

from records import imported
from records.__main__ import COMMANDS, main
from records.reader import sha256

FIXTURES = Path(__file__).parent / "fixtures"
URL = "https://example.org/pull/1"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that has two tracks and nothing reported."""
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "tracks.toml").write_text("[fineweb]\n[tiny]\n")
    monkeypatch.setattr(imported, "ROOT", tmp_path)
    return tmp_path


def run(*logs: Path, **changes: str) -> int:
    """Run the command with flags that are right but for the changes."""
    flags = {"track": "tiny", "name": "A_b-1", "date": "2024-10-10", "url": URL, **changes}
    return main(["import", *map(str, logs), *(word for k, v in flags.items() for word in (f"--{k}", v))])


def test_a_row_is_written_from_the_logs(root, capsys):
    log = FIXTURES / "layout_d_trials.txt"
    assert run(log, by="A. Person") == 0
    out, err = capsys.readouterr()
    path = "records/reported/tiny/2024-10-10_A_b-1.json"
    assert out == f"wrote {path}: 3 runs, mean val_loss 3.20000\n" and not err
    row = json.loads((root / path).read_text())
    assert row["reported"] is True and row["by"] == "A. Person" and row["url"] == URL and row["n"] == 3
    assert row["val_loss"] == {"mean": 3.2, "all": [3.1, 3.2, 3.3]}
    assert row["train_time_ms"] == {"mean": 3000.0, "all": [3000.0] * 3}
    assert (row["steps"], row["device"]) == ("10", "2 x NVIDIA A40")
    assert [(r["trial"], r["seed"], r["log_sha256"]) for r in row["runs"]] == [
        (i, 41 + i, sha256(log.read_bytes())) for i in range(3)]
    assert row["code_sha256"] == row["runs"][0]["code_sha256"] == sha256(b"import synthetic_trials\n")


def test_what_the_logs_lack_is_null(root):
    assert run(FIXTURES / "llmc.log") == 0
    [path] = root.glob("records/reported/tiny/*.json")
    row = json.loads(path.read_text())
    assert (row["by"], row["device"], row["code_sha256"], row["train_time_ms"]["mean"]) == (None,) * 4


def test_a_loss_that_is_not_finite_stays_in_the_mean(root, capsys):
    assert run(FIXTURES / "layout_b.txt", FIXTURES / "layout_c.txt") == 0
    [path] = root.glob("records/reported/tiny/*.json")
    row = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert row["val_loss"] == {"mean": "nan", "all": ["nan", 6.1234]}
    assert capsys.readouterr().err == "records import: these logs hold different scripts\n"


def test_nothing_is_overwritten(root, capsys):
    assert run(FIXTURES / "layout_c.txt") == 0
    [path] = root.glob("records/reported/tiny/*.json")
    before = path.read_bytes()
    assert run(FIXTURES / "layout_e.txt") == 2
    assert path.read_bytes() == before and "File exists" in capsys.readouterr().err


@pytest.mark.parametrize("flag, value", [
    ("track", "huge"), ("track", "../tiny"), ("name", ""), ("name", "../up"), ("name", "a.b"),
    ("name", "a b"), ("name", "é"), ("name", "a\n"), ("name", "x" * 81), ("date", "2024-13-01"),
    ("date", "20241010"),
    ("date", "2024-1-1"), ("date", "today"), ("url", "ftp://a.b/c"), ("url", "javascript:alert(1)"),
    ("url", "https://a.b/<script>"), ("url", "https://a.b/)|x"), ("url", "https://a.b/\n"), ("by", "<b>"),
    ("by", "a|b"), ("by", "a\u202eb"), ("by", ""),
])
def test_what_is_typed_by_hand_is_checked(flag, value, root, capsys):
    assert run(FIXTURES / "layout_c.txt", **{flag: value}) == 2
    err = capsys.readouterr().err
    assert f"--{flag}" in err and err.count("\n") == 1 and not (root / "records").exists()


def test_a_run_counts_once_and_a_file_that_is_no_log_writes_nothing(root, capsys):
    shutil.copy(FIXTURES / "layout_c.txt", root / "copy.txt")
    (root / "bad.txt").write_text("nothing")
    (root / "empty").mkdir()
    for logs, words in (((FIXTURES / "layout_c.txt", root / "copy.txt"), "a run counts once"),
                        ((FIXTURES / "layout_c.txt", root / "bad.txt"), "no validation line"),
                        ((root / "empty",), "no logs in these folders")):
        assert run(*logs) == 2
        assert words in capsys.readouterr().err and not (root / "records").exists()


def test_the_example_of_the_help_runs(root, capsys):
    example = COMMANDS["import"][1]
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert capsys.readouterr().out.strip().endswith(f"example: {example}")
    words = [word.replace("LOG...", str(FIXTURES / "layout_c.txt")).replace("URL", URL)
             for word in example.split()[3:]]
    assert main(words) == 0
