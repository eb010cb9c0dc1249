"""The gap of honest runs, from their logs and verdicts."""
import pytest
import synthetic

from bench import holdout_gap


def test_the_row_is_that_of_all_runs_which_the_judge_finds_honest(tmp_path, monkeypatch):
    """A verdict beside a log is taken where it has the holdout; else the judge is asked."""
    logs = synthetic.campaign(tmp_path, 3, synthetic.judging(holdout={"source": "1", "gap": 0.07}))
    asked = []

    def judge(log, cuts, holdout):
        asked.append((log, cuts, holdout))
        return {"ok": log != logs[2], "refused": "difference 3", "holdout": {"gap": 0.08}, "run_id": log.stem,
                "seed": 2, "loss": 4.9, "track": "tiny"}
    monkeypatch.setattr(holdout_gap, "judge", judge)
    found = holdout_gap.result((holdout_gap.judged(log, "1") for log in logs[:2]), "1")
    assert found.raw["line"] == "gap = { mean = 0.0750, sd = 0.0071, n = 2, loss = 4.901 }"
    assert [(row.name, row.values) for row in found.rows] == [
        ("gap, all", [0.07, 0.08]), ("gap, train", [0.07, 0.08])]
    with pytest.raises(ValueError, match="difference 3; give runs that the judge finds honest"):
        holdout_gap.judged(logs[2], "1")
    assert asked == [(logs[1], 1, "1"), (logs[2], 1, "1")]
