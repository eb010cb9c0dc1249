"""Cheats of the class C8: seeds that were chosen, and honest logs that were edited by hand."""
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.runlog import canonical, sha256
from tests.cheats.arena import Arena, Cheat
from tests.tiny import events, result

STEP_LINE = re.compile(r"step:(\d+)/(\d+) (train|val)_loss:(\S+) train_time:(\d+)ms step_avg:(\S+)ms")
SLOW = """
end = time.process_time() + 0.4 * (run.seed == 0)
while time.process_time() < end:
    pass
"""
LONGER = Cheat(of="", what="", caught="", track="easy", instead=(
    ("epochs: int = 1", "epochs: int = 5"), ("num_iterations: int = 8", "num_iterations: int = 40")))


def mend(log: Path, edit: Callable[[str, dict[str, Any]], None] = lambda kind, fields: None,
         line: Callable[..., str] = lambda *words: None) -> None:
    """Edit the events of a log and its step lines, and give it the sha256 that fits.

    line: takes step, last step, "train" or "val", loss, time, average; returns the new line, None: as it is.
    """
    whole = ""
    for row in log.read_text().split("\n")[:-1]:
        kind, _, text = row.removeprefix("#:").partition(" ")
        if row.startswith("#:") and text and kind != "file":
            fields = json.loads(text)
            edit(kind, fields)
            fields |= {"sha256": sha256(whole.encode())} if kind == "end" else {}
            row = f"#:{kind} {canonical(fields)}"
        elif words := STEP_LINE.fullmatch(row):
            row = line(*words.groups()) or row
        whole += row + "\n"
    log.write_text(whole)


def with_loss(log: Path, loss_of: Callable[[int, float], float]) -> None:
    """Give the validations of a log other losses, in all places that tell them."""
    new = {val["step"]: loss_of(val["step"], val["val_loss"]) for val in events(log, "val")}

    def edit(kind: str, fields: dict[str, Any]) -> None:
        if kind in ("val", "end"):
            fields["val_loss"] = new[fields["step"]]

    mend(log, edit, lambda step, last, kind, loss, ms, average: None if kind == "train" else (
        f"step:{step}/{last} val_loss:{new[int(step)]:.4f} train_time:{ms}ms step_avg:{average}ms"))


def lower(arena: Arena, logs: list[Path]) -> None:
    """Lower all losses but the first."""
    for log in logs:
        with_loss(log, lambda step, loss: loss - 0.1 * (step > 0))


def as_finish(arena: Arena, logs: list[Path]) -> None:
    """Call nine tenths of the training time of the first run what comes after it."""
    now = {val["step"]: val["train_time_ns"] // 10 for val in events(logs[0], "val")}
    whole = result(logs[0])["timed_ns"]

    def edit(kind: str, fields: dict[str, Any]) -> None:
        if kind in ("val", "end"):
            fields["train_time_ns"] = now[fields["step"]]
        if kind == "end":
            fields["timed_ns"] = fields["train_time_ns"]
            fields["finish_ns"] += whole - fields["timed_ns"]
            fields["untimed"]["step_ns"] //= 10

    def line(step: str, last: str, kind: str, loss: str, ms: str, average: str) -> str:
        new = round(now[int(step)] / 1e6) if kind == "val" else int(ms) // 10
        average = f"{new / int(step):.2f}" if int(step) else "nan"
        return f"step:{step}/{last} {kind}_loss:{loss} train_time:{new}ms step_avg:{average}ms"

    mend(logs[0], edit, line)


def keep_best(arena: Arena, logs: list[Path]) -> None:
    """Take the best four logs for the claim."""
    for log in sorted(logs, key=lambda log: result(log)["val_loss"])[4:]:
        for file in log.parent.glob(f"{log.stem}.*"):
            file.unlink()


def keep_best_and_count_so(arena: Arena, logs: list[Path]) -> None:
    """The same, and let ledger and campaign know of these alone."""
    keep_best(arena, logs)
    kept = [log for log in logs if log.exists()]
    ledger, campaign = logs[0].parent / "ledger.jsonl", logs[0].parent / "seeds_0.json"
    rows = ledger.read_text().splitlines(True)
    ledger.write_text("".join(row for row in rows if any(log.stem in row for log in kept)))
    campaign.write_text(json.dumps(json.loads(campaign.read_text()) | {"logs": [log.name for log in kept]}))


def weights_of_longer_runs(arena: Arena, logs: list[Path]) -> None:
    """Put the weights of runs five times as long beside the logs, with the losses that these have."""
    for log, longer in zip(logs, arena.claim("longer", LONGER)):
        weights = longer.with_suffix(".safetensors")
        shutil.copy(weights, log.with_suffix(".safetensors"))
        good, steps = result(longer)["val_loss"], result(log)["step"]
        with_loss(log, lambda step, loss: good if step == steps else loss)
        mend(log, lambda kind, fields: fields.update(
            {"state_sha256": sha256(weights.read_bytes())} if kind == "end" else {}))


EDITS = {
    "lower_losses": Cheat(
        of="C8", what="edits the losses, with a sha256 that fits", caught="judge: difference", edit=lower),
    "times_into_the_finish": Cheat(
        of="C8", what="moves nine tenths of the training time behind the last validation",
        caught="untimed: finish",
        track="easy", lines={"imports": "import time", "stepped": SLOW}, edit=as_finish),
    "best_seeds": Cheat(
        of="C8", what="claims with the best four of six seeds", caught="all_attempts: 2 of 6",
        track="easy", seeds=range(6), edit=keep_best),
    "best_seeds_counted": Cheat(
        of="C8", what="the same, with ledger and campaign's file edited", caught="seeds: says",
        track="easy", seeds=range(6), edit=keep_best_and_count_so),
    "mapped_seeds": Cheat(
        of="C8", what="has chosen better seeds, and maps to them", caught="judge: weights of step 0",
        track="easy", instead=(("manual_seed(run.seed)", "manual_seed([11, 4, 29, 17][run.seed])"),)),
    "mapped_in_the_model": Cheat(
        of="C8", what="maps seeds where the judge runs it too", caught="scan: seed", track="easy",
        instead=(("        self.wte = ", "        torch.manual_seed([11, 4, 29, 17][torch.initial_seed()])\n"
                                         "        self.wte = "),)),
    "invented_train_loss": Cheat(
        of="C8", what="logs a training loss of its own", caught="refused: train_loss", track="easy",
        lines={"stepped": "run.log(train_loss=1.0)"}),
    "longer_elsewhere": Cheat(
        of="C8", what="hands in weights of longer runs, with losses that fit", caught="rerun: val_loss",
        edit=weights_of_longer_runs),
}
