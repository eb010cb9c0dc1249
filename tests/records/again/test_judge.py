"""python -m records judge, and who else has runs judged: campaigns, races, reruns, records."""
import json
from pathlib import Path

import pytest
from synthetic import campaign, runnable, setting, unjudged
from tiny import ROOT

from records.tools.again import judge as judging
from records.tools.again import launch as launches
from records.tools.check.verdict import verdict_path


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Logs with weights and no verdict, where a checkout's runs lie."""
    root = runnable(tmp_path / "checkout")
    monkeypatch.setattr(launches, "ROOT", root)
    logs = campaign(root / "records", 3)
    return [unjudged(log) for log in logs]


def test_a_run_that_was_made_here_is_judged_without_a_question(logs, judge, call):
    call("judge", logs[0], "--cuts", "7", "--holdout", "3")
    assert judge.asked == [(logs[0].name, ["--cuts=7", "--holdout=3"], "owner")]


def test_data_may_lie_elsewhere_and_a_holdout_may_be_a_text(logs, judge, call, monkeypatch, tmp_path):
    text, made = tmp_path / "emma.txt", []
    text.write_text("Emma Woodhouse, handsome")
    monkeypatch.setattr(launches, "write_ids", lambda *words: made.append(words) or words[2])
    call("judge", logs[0], "--holdout", text, "--data", tmp_path)
    [(ids, vocabulary, shard)] = made
    assert ids == text.read_bytes() and vocabulary == launches.ROOT / "data/tiny/vocab.bpe"
    assert shard.name == text.name and judge.asked[0][1] == [f"--data={tmp_path}", f"--holdout={shard}"]
    call("judge", logs[0], "--holdout", tmp_path / "own.bin")
    assert len(made) == 1 and judge.asked[1][1] == [f"--holdout={tmp_path / 'own.bin'}"]


def test_a_strangers_run_is_scanned_wants_a_yes_and_is_a_verifiers(logs, judge, call, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    [log] = campaign(tmp_path / "theirs", 1, setting(script=b"from harness.run import open_run\nexec('x')\n"))
    err = call("judge", log, code=2).err
    assert "builds or loads code: exec('x')" in err and "give --yes" in err and not judge.asked
    call("judge", log, "--yes")
    assert judge.asked[0][2] == "verifier"


@pytest.mark.parametrize("ok, code", [(True, 0), (False, 1), (None, 2)])
def test_the_exit_code_is_the_verdict(ok, code, logs, judge, call):
    judge.words[logs[0].name] = ok
    assert json.loads(call("judge", logs[0], "--json", code=code).out)["ok"] is ok


def test_words_that_make_no_sense_are_refused(logs, judge, refused):
    assert "--cuts 0: expected a whole number" in refused("judge", logs[0], "--cuts", "0")
    assert "--against without --holdout" in refused("judge", logs[0], "--against", logs[1])


def test_weights_go_once_a_run_is_judged_and_stay_where_it_is_not(logs, judge):
    with launches.Signals() as signals:
        judging.weights_path(logs[0]).unlink()  # nothing to judge it by
        assert judging.judge_all(logs[:2], signals, keep=False) == []
        assert [name for name, *_ in judge.asked] == [logs[1].name]
        assert not judging.weights_path(logs[1]).exists()
        judge.words[logs[2].name] = None
        assert judging.judge_all(logs[2:], signals, keep=False) == []
        assert judging.weights_path(logs[2]).exists()
        judge.words[logs[2].name] = False
        assert judging.judge_all(logs, signals, keep=True) == [logs[2].name]
        assert judging.weights_path(logs[2]).exists() and len(judge.asked) == 3  # each once
        signals.caught = True
        verdict_path(logs[2]).unlink()
        with pytest.raises(KeyboardInterrupt, match="goes on with judging"):
            judging.judge_all(logs, signals, keep=False)
        assert judging.weights_path(logs[2]).exists()


def test_a_verdict_that_is_another_logs_or_damaged_is_made_anew(logs, judge):
    with launches.Signals() as signals:
        judging.judge_all(logs[:1], signals, keep=True)
        verdict_path(logs[0]).rename(verdict_path(logs[1]))
        verdict_path(logs[2]).write_text("[")
        judging.judge_all(logs, signals, keep=True)
    assert [name for name, *_ in judge.asked] == [log.name for log in (logs[0], *logs)]


def test_the_run_that_stands_beside_a_holdout_may_be_a_record(logs, judge, call, tmp_path):
    first = min(campaign(tmp_path / "record"))
    first.parent.rename(tmp_path / "record" / "logs")
    call("judge", logs[0], "--holdout", "3", "--against", tmp_path / "record")
    assert judge.asked[0][1] == ["--holdout=3", f"--against={tmp_path / 'record' / 'logs' / first.name}"]


def test_the_checkouts_own_judge_is_asked_and_its_words_shown(logs, monkeypatch, capfd):
    """A synthetic log's weights are not there; a verdict that lay beside it was replaced by "not judged"."""
    monkeypatch.setattr(launches, "ROOT", ROOT)
    verdict_path(logs[0]).write_text("an earlier one")
    with launches.Signals() as signals:
        assert judging.judge(logs[0], signals) is None
    assert capfd.readouterr().out.startswith("judge: not judged: ")
    assert verdict_path(logs[0]).read_text() == "an earlier one"
