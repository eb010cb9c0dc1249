"""Every check of verify has a log that fails it and no other check."""
import json
import re
import shutil
import types

import pytest
from broken import sprint, states, worse
from synthetic import SCRIPT, campaign, change, edited, race_logs, raced, resealed, setting, settled, sound

from harness.runlog import sha256
from records.tools.check import of_a_claim as checks
from records.tools.check import of_a_run
from records.tools.check.claim import load_claim
from records.tools.check.significance import LOOKS
from records.tools.publish.verify import CHECKS, check_all
from records.tools.read.tracks import ROOT, load_rows


def test_four_sound_runs_pass_every_check(root):
    found = check_all(load_claim(campaign(root)))
    assert {name for name, r in found.items() if r.state != "ok"} == {"race", "rebuilt"}
    assert all(r.evidence for r in found.values()) and found["significance"].evidence.startswith("PROVEN")


def test_a_copy_under_another_name_fails_distinct(root):
    logs = campaign(root)
    copy = logs[0].with_name("another.txt")
    copy.write_bytes(logs[0].read_bytes())
    assert states([*logs, copy]) == {"distinct": "fail"}
    renamed, seed = logs[0].stem.encode(), b'"seed":1,"seq"'
    for old, new in ((renamed, b"20260101T000009Z_00000000_000009"), (seed, b'"seed":9,"seq"')):
        resealed(copy, old, new)  # a run id and a seed of its own: the times give it away
    assert states([*logs, copy])["distinct"] == "fail"


def test_a_forger_who_does_not_mend_all_fails_hashes(root):
    """First a byte, then the end line's sha256, last the scripts' in all logs, but not the digest's."""
    logs, train, trick = campaign(root), b"print('train')", b"print('trick')"
    logs[0].write_bytes(logs[0].read_bytes().replace(train, trick))
    assert states(logs) == {"hashes": "fail"}
    resealed(logs[0], trick, trick)
    assert states(logs) == {"hashes": "fail"}
    for i, log in enumerate(logs):
        resealed(log, train if i else trick, trick)
        resealed(log, sha256(SCRIPT).encode(), sha256(SCRIPT.replace(train, trick)).encode())
    assert states(logs) == {"hashes": "fail"}


def test_a_line_that_no_harness_writes_and_two_attempts_in_a_file_fail_framing(root):
    logs = campaign(root)
    whole = logs[0].read_bytes()
    resealed(logs[0], b"step:1/8", b"hello\nstep:1/8")
    assert states(logs) == {"framing": "fail"}
    logs[0].write_bytes(whole + logs[1].read_bytes())
    assert [name for name, state in states(logs).items() if state == "fail"] == ["framing"]


def renumbered(run: types.SimpleNamespace) -> None:
    run.train = sound(2).train


@pytest.mark.parametrize("change, which, found, evidence", [
    (renumbered, 0, {"distinct": "fail"}, ""), (sprint, 0, {"pace": "review"}, ""),
    (worse, None, {"significance": "fail"}, "REFUTED"),
    (setting(script=SCRIPT + b"import threading\n"), None, {"scan": "review"}, "train.py:3")])
def test_a_campaign_fails_the_one_check_that_it_breaks(change, which, found, evidence, root):
    logs = campaign(root, change=change, which=which)
    assert states(logs) == found and evidence in check_all(load_claim(logs))[next(iter(found))].evidence


def test_a_host_that_is_busy_for_most_of_a_run_asks_for_no_reader(root):
    """5 of 8 stretches at a third of the speed: the others were over twice as fast as the median."""
    def busy(run):
        run.manifest["hyperparameters"]["val_every"] = 1
        times, seed = [0, 3, 6, 9, 12, 15, 16, 17, 18], run.manifest["seed"]
        run.vals = [[step, 5.549 - step / 12 - seed / 1000, s * (10**9 + seed)]
                    for step, s in enumerate(times)]
        settled(run)
    assert states(campaign(root, change=busy, which=None)) == {}


def test_seeds_that_are_no_row_of_the_campaigns_own_file_ask_for_a_reader(root):
    """The best 10 of 15 seeds pass a test at 1 % far too often."""
    logs = campaign(root, n=5)
    (root / "runs" / "seeds_1.json").write_text('{"logs": ["another.txt"]}')
    found = check_all(load_claim(logs))["seeds"]
    assert found == of_a_run.Result("ok", "seeds 1 to 5, as declared")
    own = root / "runs" / "seeds_0.json"
    alone = own.read_text()
    own.write_text(json.dumps(json.loads(alone) | {"side_by_side": [[1, 2], [3, 4]]}))
    told = check_all(load_claim(logs))["seeds"].evidence
    assert told == "seeds 1 to 5, as declared; several ran at once, so their times tell nothing"
    own.write_text(alone)
    found = check_all(load_claim([*logs[:2], *logs[3:]]))["seeds"]
    assert found == of_a_run.Result("review", "seeds 1, 2, 4, 5; seeds_0.json says 1, 2, 3, 4, 5")
    (root / "runs" / "seeds_0.json").write_text(f'["{logs[0].name}"]')
    assert check_all(load_claim(logs))["seeds"].evidence.startswith("seeds_0.json: found JSON of type list")
    (root / "runs" / "seeds_0.json").unlink()
    found = check_all(load_claim(logs))["seeds"]
    assert found.state == "review" and "no campaign's or race's file names them" in found.evidence
    assert check_all(load_claim(logs[:3]))["seeds"].state == "unknown"


def test_the_seeds_of_a_race_are_those_of_its_own_file(root):
    logs = race_logs(raced(root / "race"), "A")
    assert checks.seeds(load_claim(logs)) == of_a_run.Result("ok", "seeds 1 to 4, as declared")
    assert checks.seeds(load_claim(logs[1:])).state == "review"
    edited(root / "race", lambda plan: plan.update(seeds=[0, 1, 2, 3, 7]))
    assert checks.seeds(load_claim(logs)).state == "review"


def test_a_track_without_a_target_decides_nothing(root):
    rows = root / "harness" / "tracks.toml"
    rows.write_text(rows.read_text().replace("target = 5.0\n", ""))
    for target in (None, 0.0):
        logs = campaign(root, change=change("track_row.target", target), which=None)
        found = check_all(load_claim(logs))
        assert found["track"].state == "ok"
        assert found["significance"].evidence == "NOT SHOWN: no target: the track is no contest"
        shutil.rmtree(root / "runs")


def test_the_repeats_of_a_seed_count_once(root):
    def again(run):
        run.manifest["seed"], run.train = 2, sound(2).train
    claim = load_claim(campaign(root, change=again))
    found = check_all(claim)
    assert found["distinct"] == of_a_run.Result("ok", "4 runs, 3 seeds") and len(claim.losses()) == 3
    assert claim.losses()[0] == pytest.approx((4.901 + 4.902) / 2)
    assert found["significance"].evidence.startswith("PROMISING")  # 3 are not a declared number


def test_a_checkout_without_the_tracks_data_compares_no_shards(root):
    (root / "data" / "tiny" / "manifest.json").unlink()
    claim = load_claim(campaign(root))
    assert checks.data(claim) == of_a_run.Result(
        "unknown", "this checkout pins no shards of the track; fetch its data")
    decided = checks.conclude(claim, checks.all_attempts(claim), checks.data(claim))
    assert decided.word == "PROMISING" and "pins no shards" in decided.reason


def test_the_rules_show_the_checks_and_the_tracks_as_they_are():
    rules = (ROOT / "docs" / "rules.md").read_text()
    assert all(check.__doc__ for check in CHECKS)
    table = rules[rules.index("## What verify checks"):rules.index("`unknown` means")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [check.__name__ for check in CHECKS]
    shown = [line for line in rules.split("\n") if line.startswith("| `") and "data/" in line]
    assert shown == [
        f"| `{name}` | `{row['data']}` | {row['target']} | {row['val_tokens']} | "
        f"{row['max_active_parameters']} | {row['reduction']} | {row['significance']['alpha']} |"
        for name, row in load_rows().items() if "significance" in row]  # the lab's tracks are no contests
    assert f"**{', '.join(map(str, LOOKS[:-1]))} or {LOOKS[-1]}** runs" in rules
