"""Which records stand: proven ones that beat the one before on the same hardware, by their own race."""
import json
import math

import pytest
from synthetic import OLD_HARNESS, change, code_of, edited, script_of, sound, write, write_record

from records.tools.check.standings import Ratio, standings
from records.tools.read.values import ReadError


def told(folder) -> list[tuple]:
    return [(each.record["name"], each.number, each.speed.partition(":")[0]) for each in standings(folder)]


@pytest.fixture
def folder(tmp_path):
    """A track's folder with two records: a first one, and one that beat it."""
    write_record(tmp_path / "tiny", "One")
    write_record(tmp_path / "tiny", "Two", "One")
    return tmp_path / "tiny"


def test_a_record_is_proven_and_faster_than_the_one_before_it(folder):
    """An unraced record became number 5 of its track, and number 3 was slower than number 2."""
    write_record(folder, "Slower", "Two", 5.0)
    write_record(folder, "Weak", "Two", significance={"word": "PROMISING"})
    write_record(folder, "Unraced")
    write_record(folder, "Stale", "One")
    write_record(folder, "Even", "Two", 0.0)
    write_record(folder, "Three", "Two")
    assert told(folder) == [
        ("One", 1, "the first"), ("Two", 2, "faster than One"), ("Slower", None, "slower than Two"),
        ("Weak", None, "faster than Two"), ("Unraced", None, "not raced against Two"),
        ("Stale", None, f"raced against code {code_of('One')[:8]}, not against Two"),
        ("Even", None, "no difference shown against Two"), ("Three", 3, "faster than Two")]


def test_a_word_of_verify_counts_before_that_of_record_json(folder):
    """A record's json is made once; what its judge or a reader says of it may change."""
    [one, two] = standings(folder, {"2026-01-01_Two": "PROMISING"})
    assert (one.number, two.number) == (1, None) and two.record["significance"]["word"] == "PROMISING"


def test_a_race_is_against_the_script_of_a_record_and_not_on_a_closed_harness(folder, root):
    """After a freeze no race could be against the record before it: its code digest holds the harness's."""
    def old(run):
        run.files = OLD_HARNESS
    for name in ("One", "Two"):
        run = sound(1)
        run.script, run.files = script_of(name), OLD_HARNESS
        write(folder / f"2026-01-01_{name}" / "logs", run)
    one = folder / "2026-01-01_One" / "record.json"
    one.write_text(json.dumps(json.loads(one.read_text()) | {"code": "0" * 64}))
    assert told(folder)[1] == ("Two", 2, "faster than One")
    three = write_record(folder, "Three", "Two", -5.0, old)
    raced = json.loads((three.parent / "race" / "race.json").read_text())
    three.write_text(json.dumps(json.loads(three.read_text()) | {"code": raced["A"]["code"]}))
    assert told(folder)[2] == ("Three", None, "raced against Two on a closed harness")


@pytest.mark.parametrize("older, script, more, gpus, stands", [
    (True, "One", {}, [], [("One", None, "made again on 2026-01-01"), ("Two", 1, "the first"),
                           ("One", None, "not raced against Two")]),
    (True, "One", {"device": "Other CPU"}, [], [("One", None, "made again on 2026-01-01"),
                                                ("Two", 1, "the first"), ("One", 1, "the first")]),
    (True, "One", {"device": "1 x H100"}, ["H100"], [("One", 1, "the first"), ("Two", 2, "faster than One"),
                                                     ("One", 1, "the first")]),
    (True, "Other", {}, [], None), (False, "One", {}, [], None),
    (True, "One", {"significance": {"word": "NOT SHOWN"}}, [], None)])
def test_a_record_of_a_closed_harness_that_is_proven_again_stands_no_more(
        folder, root, older, script, more, gpus, stands):
    """Records of two harnesses, or of two CPUs, stood in one table, whose times no race connects."""
    def logs(of, script, old):
        run = sound(1)
        run.script = script_of(script)
        if old:
            run.files = OLD_HARNESS
        else:
            change("sys.gpus", gpus)(run)
        write(of / "logs", run)
    one = (folder / "2026-01-01_One").rename(folder / "aside")
    again = write_record(folder, "One", **more).parent.rename(folder / "2026-02-01_One")
    one = one.rename(folder / "2026-01-01_One")
    logs(one, "One", older)
    logs(again, script, False)
    assert told(folder) == (stands or [("One", 1, "the first"), ("Two", 2, "faster than One"),
                                       ("One", None, "not raced against Two")])


def test_an_attempt_made_again_stands_no_more_either(folder, root):
    """Muon's four seeds were PROMISING, and again; both stood below the table."""
    for name, change_of in (("first", {"files": OLD_HARNESS}), ("second", {})):
        weak = write_record(folder, "Weak", "Two", significance={"word": "PROMISING"}).parent
        run = sound(1)
        vars(run).update(change_of, script=script_of("Weak"))
        write(weak.rename(folder / name) / "logs", run)
    assert [each[2] for each in told(folder) if each[0] == "Weak"] == [
        "made again on 2026-01-01", "faster than Two"]


def test_each_class_of_hardware_has_records_of_its_own(folder):
    write_record(folder, "Weak", device="2 x H100", significance={"word": "NOT SHOWN"})
    for name, device, ranks in (("GPU", "2 x H100", 1), ("Ranks", "Tiny CPU", 2), ("More", "2 x H100", 1)):
        write_record(folder, name, device=device, world_size=ranks)
    write_record(folder, "Elsewhere", "Two", -5.0, change("sys.cpu", "Other CPU"))
    assert told(folder)[2:] == [
        ("Weak", None, "no record before it"), ("GPU", 1, "the first"), ("Ranks", 1, "the first"),
        ("More", None, "not raced against GPU"), ("Elsewhere", None, "raced against Two on other hardware")]


@pytest.mark.parametrize("edit, words", [
    (lambda plan: plan["attempts"].pop(), "could not tell against Two"),
    (lambda plan: plan.update(n=3), "its race cannot be read"),
    (lambda plan: plan["A"].update(code="f" * 64), "its race cannot be read"),
    (lambda plan: plan["attempts"][0].update(log="absent.txt"), "its race cannot be read")])
def test_a_race_that_decides_nothing_makes_no_record(edit, words, folder):
    edited(write_record(folder, "Three", "Two").parent / "race", edit)
    assert told(folder)[2] == ("Three", None, words) and standings(folder)[2].ratio is None


def test_ratios_are_multiplied_up_over_races_and_their_errors_add_up(folder):
    write_record(folder, "Three", "Two", 5.0, significance={"word": "PROMISING"})
    _, two, three = (each.ratio for each in standings(folder))
    assert two.value < 1 < three.value / two.value
    both = math.log(three.value / two.value)
    assert two.interval()[0] < two.value < two.interval()[1] and str(Ratio()) == "1"
    assert three.variance > two.variance and both == pytest.approx(-math.log(two.value), rel=0.1)
    # Student's t at 97.5 % with 3 degrees of freedom is 3.18245, with 6 it is 2.44691
    low, high = Ratio(0.5, 0.01, 3).interval()
    assert (math.log(high / 0.5) / 0.1, low * high) == (pytest.approx(3.18245, rel=1e-5), pytest.approx(0.25))
    product = Ratio(0.5, 0.01, 3).times(Ratio(0.5, 0.01, 3))
    assert (product.value, product.variance, product.df) == (0.25, 0.02, pytest.approx(6))
    assert math.log(product.interval()[1] / 0.25) == pytest.approx(2.44691 * math.sqrt(0.02), rel=1e-5)


@pytest.mark.parametrize("field, value", [
    ("steps", "**b**"), ("n", "<b>"), ("n", True), ("track", 5), ("name", None), ("date", 5), ("begun", []),
    ("code", None), ("device", {}), ("world_size", "1"), ("val_loss", 4.9), ("val_loss", {"mean": None}),
    ("val_loss", {"mean": 4.9, "sd": "<b>"}), ("significance", {}), ("significance", {"word": 1})])
def test_a_field_of_another_type_is_an_error_in_one_line(field, value, folder):
    write_record(folder, "Three", **{field: value})
    with pytest.raises(ReadError, match="Three/record.json: field ") as caught:
        standings(folder)
    assert "\n" not in str(caught.value)
