"""A run has the same words whichever program wrote its log; what the log lacks is None or empty."""
from small_logs import FIXTURES, write_log

from harness.runlog import sha256
from records.tools.read.logs import load_runs

def test_a_run_of_our_own_tells_its_manifest_its_events_and_its_end(tmp_path):
    [run] = load_runs(write_log(tmp_path))
    found = (run.run_id, run.at("track_row", "target"), run.at("hyperparameters", "lr", "x"))
    assert found == ("r", 5.0, None)
    assert [event.kind for event in run.events][:2] == ["manifest", "file"]
    assert [fields["step"] for fields in run.of_kind("val")] == [0, 2]
    assert run.end["status"] == run.status == "ok" and run.sha256 == sha256(run.path.read_bytes())
    [run] = load_runs(write_log(tmp_path, "cut", end=None))
    assert run.status == "incomplete" and run.end == {}


def test_a_run_of_others_has_no_events_and_the_name_of_its_file():
    runs = load_runs(FIXTURES / "layout_d_trials.txt")
    name = "layout_d_trials.txt"
    assert [run.name for run in runs] == [name, f"{name}#1", f"{name}#2"]
    for i, run in enumerate(runs):
        assert (run.run_id, run.events, run.end, run.at("code"), run.of_kind("val")) == (
            "layout_d_trials", [], {}, None, [])
        assert run.facts()["trial"] == i and run.sha256 == runs[0].sha256
