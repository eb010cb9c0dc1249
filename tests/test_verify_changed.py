""".ci/verify_changed on a small repository: a base, and changes that bring a record or touch one."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, environment

RECORD = "records/sample/2026-11-22_BigramTable"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True)


@pytest.fixture
def change(project):
    """Commit what stands in the project; return what the judge of a base says of it, after its exit code."""
    project.add_records()
    (project.folder / "data" / "sample").mkdir()
    shutil.copy(ROOT / "data" / "sample" / "manifest.json", project.folder / "data" / "sample")
    git(project.folder, "add", "-A")
    git(project.folder, "commit", "-qm", "Pin the sample's shards")

    def change(base: str = "HEAD~1") -> tuple[int, str]:
        git(project.folder, "add", "-A")
        git(project.folder, "commit", "-qm", "Change", "--allow-empty")
        done = subprocess.run([sys.executable, ROOT / ".ci" / "verify_changed", base], text=True,
                              cwd=project.folder, env=environment(), capture_output=True)
        assert done.stderr == ""
        return done.returncode, done.stdout
    return change


def test_a_change_is_judged_by_the_base_and_edits_no_published_log(project, change):
    folder = project.folder / RECORD
    (project.folder / "records" / "requirements.txt").write_text("matplotlib>=3\n")  # no log
    code, said = change()
    assert code == 0 and said.endswith("It brings none.\n")

    shutil.copytree(ROOT / RECORD, folder)
    code, said = change()
    assert code == 0 and f"    {RECORD}\n" in said and "    PROVEN: mean" in said, said
    assert said.count(RECORD) == 2 and "may be neither" not in said  # named by us and by verify

    log = min(folder.glob("logs/*.txt"))
    log.write_bytes(log.read_bytes().replace(b"val_loss:4", b"val_loss:3", 1))
    (project.folder / "records" / "__main__.py").write_text("print('PROVEN: by the change itself')\n")
    code, said = change()
    assert code == 1 and f"    {log.relative_to(project.folder)}: published" in said
    assert "    INVALID" in said and "by the change itself" not in said, said

    (folder / "record.json").unlink()
    code, said = change()
    assert code == 1 and f"    {RECORD}/record.json: published" in said


def test_a_log_outside_of_a_record_is_judged_and_its_words_stay_in_their_block(project, change):
    log = project.folder / "records" / "others" / "run.txt"
    log.parent.mkdir()
    log.write_text("# A heading\n::error::no\n<b>PROVEN</b>\n")
    code, said = change()
    assert code == 1 and "    records/others/run.txt" in said
    assert all(line == "" or line.startswith(("    ", "### Records")) for line in said.splitlines()), said


def test_the_judge_is_that_of_the_base_now_and_not_of_where_the_change_left_it(project, change):
    """A change could choose among all rules that ever held."""
    git(project.folder, "branch", "base")
    (project.folder / "records" / "others").mkdir()
    (project.folder / "records" / "others" / "run.txt").write_text("no log\n")
    change()
    git(project.folder, "checkout", "-q", "base")
    (project.folder / "records" / "__main__.py").write_text("print('by the newest rules')\n")
    git(project.folder, "commit", "-qam", "Change the rules")
    git(project.folder, "checkout", "-q", "-")
    code, said = change("base")
    assert code == 0 and "by the newest rules" in said and "records/others/run.txt" in said, said
