"""A claim from end to end, with the real commands at toy size: run, judge, verify, submit, a row."""
import json
import re
import subprocess
import sys

import pytest
from tiny import Project, environment

from harness.runlog import sha256

MARKS = "# A project\n\n<!-- leaderboard tiny begin -->\n<!-- leaderboard tiny end -->\n"
RECIPE = """    "sample": Hyperparameters(
        vocab_size=257, n_layer=1, n_head=1, n_embd=32, dtype="float32", seq_len=16, batch_tokens=256,
        micro_batch=4, epochs=2, num_iterations=12, cooldown_iters=12, val_every=6, embed_lr=0.2,
        head_lr=0.016, adam_betas=(0.8, 0.95), newton_schulz_dtype="float32"),
"""


def records(project: Project, *words: str, code: int = 0) -> str:
    """Run `python -m records words...` in the project; return what it prints."""
    done = subprocess.run([sys.executable, "-m", "records", *words], cwd=project.folder, text=True,
                          capture_output=True, env=environment())
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_claim_goes_from_a_run_to_a_row_of_the_readme(project):
    """Four seeds of a toy recipe, without a flag that changes training, end as a proven row."""
    project.add_records()
    source = (project.folder / "train_gpt2.py").read_text()
    source = re.sub(r'    "sample": Hyperparameters\(.*?\),\n', lambda _: RECIPE, source, flags=re.S)
    (project.folder / "toy.py").write_text(source)
    (project.folder / "README.md").write_text(MARKS)
    data = project.folder / "data" / "tiny"
    pins = {path.name: {"sha256": sha256(path.read_bytes())} for path in data.glob("*.bin")}
    (data / "manifest.json").write_text(json.dumps({"files": pins}))
    answers = [project.many(("toy.py", [f"--seed={seed}"]), shared=[])[0] for seed in range(4)]
    assert [answer["code"] for answer in answers] == [0] * 4, answers[0]["stderr"]
    logs = [answer["log"] for answer in answers]
    campaign = project.folder / "records" / "runs" / "seeds_toy.json"  # as ./run.sh --seeds leaves it
    campaign.write_text(json.dumps({"logs": [log.rpartition("/")[2] for log in logs]}))
    assert "no verdict of the judge" in records(project, "verify", *logs).splitlines()[-1]
    for log in logs:
        assert records(project, "judge", log).startswith("judge: holds")
    assert records(project, "verify", *logs).splitlines()[-1].startswith("PROVEN")
    said = records(project, "submit", *logs, "--name", "Toy")
    [folder] = (project.folder / "records" / "tiny").iterdir()
    assert f"next: python -m records verify {folder.relative_to(project.folder)}" in said
    [claim] = json.loads(records(project, "verify", str(folder), "--json"))
    assert claim["word"] == "PROVEN" and {c["result"] for c in claim["checks"]} <= {"ok", "unknown"}
    records(project, "leaderboard", "--check", code=1)
    records(project, "leaderboard")
    records(project, "leaderboard", "--check")
    loss = sum(run["val_loss"] for run in json.loads((folder / "record.json").read_text())["logs"]) / 4
    [row] = [line for line in (project.folder / "README.md").read_text().splitlines() if "[Toy]" in line]
    assert f"{loss:.4f}" in row and row.endswith("| the first |") and f"records/tiny/{folder.name}" in row
    log = folder / "logs" / sorted(p.name for p in (folder / "logs").glob("*.txt"))[0]
    log.write_bytes(log.read_bytes().replace(b"val_loss:5", b"val_loss:4", 1))
    assert "INVALID" in records(project, "verify", str(folder), code=1)
    records(project, "leaderboard", code=1)
