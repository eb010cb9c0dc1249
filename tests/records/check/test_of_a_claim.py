"""Every check of verify has a log that fails it and no other check."""
from pathlib import Path

import pytest
from broken import ONE_RUN, sprint, states
from synthetic import SCRIPT, campaign, change, checkout, resealed, sound

from harness.runlog import sha256
from records.tools.check import of_a_claim as checks
from records.tools.check import of_a_run
from records.tools.check.claim import load_claim
from records.tools.check.significance import LOOKS
from records.tools.publish.verify import CHECKS, check_all
from records.tools.read.tracks import ROOT, load_rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout."""
    return checkout(tmp_path / "checkout")


def test_four_sound_runs_pass_every_check(root):
    found = check_all(load_claim(campaign(root), root=root))
    assert {name for name, r in found.items() if r.state != "ok"} == {"race", "rebuilt"}
    assert all(r.evidence for r in found.values()) and found["significance"].evidence.startswith("PROVEN")


@pytest.mark.parametrize("what", ONE_RUN)
def test_a_log_fails_the_one_check_that_it_breaks(what, root):
    name, change = ONE_RUN[what]
    which = None if name == "harness" else 0  # all runs, or the code would differ too
    assert states(campaign(root, change=change, which=which), root) == {name: "fail"}


def test_a_line_that_no_harness_writes_fails_framing(root):
    logs = campaign(root)
    resealed(logs[0], b"step:1/8", b"hello\nstep:1/8")
    assert states(logs, root) == {"framing": "fail"}


def test_a_changed_byte_fails_hashes(root):
    logs = campaign(root)
    logs[0].write_bytes(logs[0].read_bytes().replace(b"print('train')", b"print('trick')"))
    assert states(logs, root) == {"hashes": "fail"}


def test_a_code_digest_that_is_not_the_codes_fails_hashes(root):
    """A forger who exchanges the script in every log and mends all sha256 but the digest over them."""
    logs = campaign(root)
    for log in logs:
        resealed(log, b"print('train')", b"print('trick')")
        resealed(log, sha256(SCRIPT).encode(), sha256(SCRIPT.replace(b"train'", b"trick'")).encode())
    assert states(logs, root) == {"hashes": "fail"}


@pytest.mark.parametrize("path", ["harness/deep/a.py", "harness/deep/a.txt"])
def test_a_file_hidden_below_the_harness_fails_harness(path, root):
    """The code digest leaves harness/ to the harness digest, which counts harness/*.py alone."""
    def hide(run):
        run.files[path] = b"x = 1\n"
    logs = campaign(root, change=hide, which=None)
    assert states(logs, root) == {"harness": "fail"}


@pytest.mark.parametrize("imported, failed", [((), {}), (("harness/front/launch.py",), {"harness": "fail"})])
def test_the_launcher_is_in_the_log_and_in_no_digest_unless_a_rank_imports_it(imported, failed, root):
    """The harness digest leaves harness/front/ out, so nobody accepted what a rank runs of it."""
    def launched(run):
        run.files["harness/front/launch.py"] = b"# starts the ranks\n"
        run.imported = imported
    assert states(campaign(root, change=launched, which=None), root) == failed


def test_an_event_that_was_taken_out_fails_sequence(root):
    logs = campaign(root)
    line = next(line for line in logs[0].read_bytes().split(b"\n") if line.startswith(b"#:scalar"))
    resealed(logs[0], line + b"\n", b"")
    assert states(logs, root) == {"sequence": "fail"}


def test_a_step_line_that_is_not_its_event_fails_lines(root):
    swaps = ((b"val_loss:4.9010", b"val_loss:4.8010"), (b"4.9010 train_time:80", b"4.9010 train_time:81"),
             (b"step_avg:10.00ms", b"step_avg:9.00ms"), (b'"bits_per_byte":8', b'"bits_per_byte":7'))
    for i, (old, new) in enumerate(swaps):
        folder = checkout(root / str(i))
        logs = campaign(folder)
        resealed(logs[0], old, new)
        assert states(logs, folder) == {"lines": "fail"}


def test_a_copy_under_another_name_fails_distinct(root):
    logs = campaign(root)
    copy = logs[0].with_name("another.txt")
    copy.write_bytes(logs[0].read_bytes())
    assert states([*logs, copy], root) == {"distinct": "fail"}
    renamed, seed = logs[0].stem.encode(), b'"seed":1,"seq"'
    for old, new in ((renamed, b"20260101T000009Z_00000000_000009"), (seed, b'"seed":9,"seq"')):
        resealed(copy, old, new)  # a run id and a seed of its own: the times give it away
    assert states([*logs, copy], root)["distinct"] == "fail"


def test_a_seed_that_was_renumbered_fails_distinct(root):
    def same_losses(run):
        run.train = sound(2).train
    assert states(campaign(root, change=same_losses), root) == {"distinct": "fail"}


def test_the_repeats_of_a_seed_count_once(root):
    def again(run):
        run.manifest["seed"], run.train = 2, sound(2).train
    claim = load_claim(campaign(root, change=again), root=root)
    found = check_all(claim)
    assert found["distinct"] == of_a_run.Result("ok", "4 runs, 3 seeds") and len(claim.losses()) == 3
    assert claim.losses()[0] == pytest.approx((4.901 + 4.902) / 2)
    assert found["significance"].evidence.startswith("PROMISING")  # 3 are not a declared number


def test_code_that_starts_threads_asks_for_a_reader(root):
    def threads(run):
        run.script = b"from harness.run import open_run\nimport threading\n"
    logs = campaign(root, change=threads, which=None)
    found = check_all(load_claim(logs, root=root))
    assert states(logs, root) == {"scan": "review"} and "train.py:2" in found["scan"].evidence


def test_a_stretch_that_is_far_too_fast_asks_for_a_reader(root):
    assert states(campaign(root, change=sprint), root) == {"pace": "review"}


def test_losses_above_the_target_fail_significance_alone(root):
    def worse(run):
        run.vals[-1][1] += 0.5
    assert states(campaign(root, change=worse, which=None), root) == {"significance": "fail"}


def test_a_dirty_checkout_is_noted_and_no_fault(root):
    logs = campaign(root, change=change("git", {"commit": "c" * 40, "dirty": True}))
    found = check_all(load_claim(logs, root=root))
    assert states(logs, root) == {} and "dirty" in found["git"].evidence


def test_a_checkout_without_the_tracks_data_compares_no_shards(root):
    (root / "data" / "tiny" / "manifest.json").unlink()
    claim = load_claim(campaign(root), root=root)
    assert checks.data(claim) == of_a_run.Result(
        "unknown", "this checkout pins no shards of the track; fetch its data")
    decided = checks.conclude(claim, checks.all_attempts(claim), checks.data(claim))
    assert decided.word == "PROMISING" and "pins no shards" in decided.reason


def test_a_number_of_steps_that_nobody_made_fills_no_memory(root):
    """num_iterations of 1e14 with val_every 1 made a list of as many steps."""
    logs = campaign(root, change=change("hyperparameters", {"num_iterations": 10**14, "val_every": 1}))
    resealed_steps(logs[0], 10**14)
    result = of_a_run.complete(load_claim(logs, root=root))
    assert result.state == "fail" and f"{10**14} steps with a validation every 1 steps" in result.evidence


def resealed_steps(log: Path, steps: int) -> None:
    for i in range(9):
        for what in ("train_loss", "val_loss"):
            resealed(log, f"step:{i}/8 {what}".encode(), f"step:{i}/{steps} {what}".encode())


def test_a_value_that_no_harness_writes_names_its_log_and_hides_no_other_run(root):
    logs = campaign(root, change=change("parameters", {"active": "many"}))
    spoilt = campaign(checkout(root / "other"), n=1, change=change("parameters.active", 5000))
    found = of_a_run.parameters(load_claim([*logs, *spoilt], root=root))
    assert f"{logs[0].name}: a value that no harness writes (TypeError" in found.evidence
    assert f"{spoilt[0].name}: 5000 active parameters" in found.evidence


@pytest.mark.parametrize("field", ["data", "data.train", "parameters", "hyperparameters", "launch", "clocks",
                                   "sys", "track_row", "seed", "overrides", "git", "world_size", "run_id"])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e400, [[]], {"a": {}}])
def test_a_value_of_another_type_never_ends_in_a_traceback(field, value, root):
    logs = campaign(root, n=1, change=change(field, value))
    check_all(load_claim(logs, root=root))


def test_every_check_says_what_it_looks_at_and_stands_in_the_rules():
    rules = (ROOT / "docs" / "rules.md").read_text()
    for check in CHECKS:
        assert check.__doc__ and f"| `{check.__name__}` |" in rules, check.__name__


def test_the_rules_show_the_tracks_as_they_are():
    rules = (ROOT / "docs" / "rules.md").read_text()
    shown = [line for line in rules.split("\n") if line.startswith("| `") and "data/" in line]
    assert shown == [
        f"| `{name}` | `{row['data']}` | {row['target']} | {row['val_tokens']} | "
        f"{row['max_active_parameters']} | {row['reduction']} | {row['significance']['alpha']} |"
        for name, row in load_rows().items() if "significance" in row]  # the lab's tracks are no contests
    assert f"**{', '.join(map(str, LOOKS[:-1]))} or {LOOKS[-1]}** runs" in rules
