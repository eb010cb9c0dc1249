"""Checks what logs or a record claim: each check with its evidence, then one word."""
import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from records.tools.check import of_a_claim, of_a_public_run
from records.tools.check.claim import FEWEST, LEDGER, Claim, load_claim, taken_reviews
from records.tools.check.of_a_claim import conclude
from records.tools.check.of_a_run import (IMPOSSIBLE, NOT_SHOWN, OF_A_RUN, Result, each_run, first_of,
    impossible_value, number_of)
from records.tools.check.significance import Verdict
from records.tools.publish.record import differences
from records.tools.read.logs import dated, locate
from records.tools.read.values import ReadError, json_text, shown

NO_RULE = ("significance", "all_attempts")  # a claim that fails these alone is weak, not INVALID
NEW = ("judge", "untimed", "imports")  # what a claim of the current harness needs, and older logs do not tell
ARGUMENTS = {
    "paths": {"metavar": "LOG|DIR", "nargs": "+", "type": locate,
              "help": "logs of one claim, a record's folder, or a folder with records below"},
    "--ledger": {"metavar": "FILE", "type": Path, "help": "default: ledger.jsonl beside the logs"},
    "--track": {"help": "of logs that name none, also one of records/public_tracks.toml; default: fineweb"},
    "--loss": {"metavar": "NAME", "help": "of public lines with several losses: judge this, as val_ema_loss"},
    "--step": {"type": int, "help": "of public logs: judge at this step, not at the last"},
    "--json": "print one JSON array, an entry a claim",
}
MARKS = {"ok": "ok     ", "fail": "FAIL   ", "review": "REVIEW ", "unknown": "unknown"}


class Judgement:
    """A claim, what each check found, and what follows: the verdict, its word, the exit code.

    held: what was found that keeps the word below PROVEN, apart from the losses, attempts and data.
    """

    def __init__(self, claim: Claim):
        self.claim, self.checks = claim, check_all(claim)
        self.broken = [name for name in self.having("fail") if name not in NO_RULE]
        new = [self.checks[name] for name in NEW if claim.standing("current")]
        self.held = [result for result in new if result.state == "unknown"] + self.open_reviews()
        if claim.standing("closed"):
            self.held = [self.checks["harness"]]
            self.verdict = Verdict("CLOSED", f"{self.held[0].evidence}; run it on the current one", None)
        elif self.broken:
            self.verdict = Verdict("INVALID", f"{', '.join(self.broken)} failed", None)
        else:
            self.verdict = conclude(claim, self.checks["all_attempts"], self.checks["data"], *self.held)
        self.word = self.verdict.word
        # 0 where no check fails and more runs may still show what is claimed
        few = self.word == "NOT SHOWN" and len(claim.runs) < FEWEST
        self.code = 2 if self.word == "CLOSED" else int(
            bool(self.having("fail")) or not (few or self.word in ("PROVEN", "PROMISING")))

    def open_reviews(self) -> list[Result]:
        """Return the reviews that records/accepted.toml does not take; a race's are about speed alone."""
        every, taken = {run.sha256 for run in self.claim.own}, taken_reviews()
        return [self.checks[name] for name in self.having("review")
                if name != "race" and not set(self.checks[name].logs or every) <= taken.get(name, set())]

    @property
    def reason(self) -> str:
        """Why it is this word, and what a reader must look at."""
        review = ", ".join(self.having("review"))
        return f"{self.verdict.reason}{f' (REVIEW: {review})' if review else ''}"

    def having(self, state: str) -> list[str]:
        """Return the names of the checks with a result."""
        return [name for name, result in self.checks.items() if result.state == state]


def main(arguments: argparse.Namespace) -> int:
    """Check each claim and print what was found; return the exit code.

    1 where one claim does not hold, 2 where one cannot be read; the others are judged all the same.
    """
    found, codes, several = [], [], claims(arguments.paths)
    for paths in several:
        try:
            judgement = Judgement(claim_of(paths, arguments))
        except ReadError as error:
            where = f"{shown(str(paths[0]), 300)}: " if (paths[0] / "record.json").is_file() else ""
            print(f"records verify: {where}{error}", file=sys.stderr)
            codes.append(2)
            continue
        codes.append(judgement.code)
        found.append(as_json(judgement))
        if not arguments.json:
            print(text(judgement) if len(several) == 1 else line(judgement, paths[0]))
    if arguments.json:
        print(json_text(found), end="")
    elif len(several) > 1:
        words = Counter(each["word"] for each in found)
        unread = [f"{len(several) - len(found)} not read"] * (len(found) < len(several))
        print(f"{len(several)} claims: {', '.join([*(f'{n} {word}' for word, n in words.items()), *unread])}")
    return max(codes)


def claims(paths: list[Path]) -> list[list[Path]]:
    """Return the claims among paths: each record below a folder, or folder named by a date, is one.

    So is each log beside such folders. All else together is one.
    """
    found, rest = [], []
    for path in paths:
        below = sorted(each.parent for each in path.rglob("record.json")) if path.is_dir() else []
        if below or of_records(path):
            found += [[folder] for folder in below or [path]]
        elif any(map(os.path.isdir, each := dated(path))):
            found += [[one] for one in each]
        else:
            rest.append(path)
    return found + [rest] * bool(rest)


def of_records(path: Path) -> bool:
    """Tell whether a folder is one for records: in its runs/ lie those of all experiments, no claim."""
    return (path / "runs" / LEDGER).is_file()


def claim_of(paths: list[Path], arguments: argparse.Namespace) -> Claim:
    """Return the claim that paths make. Raises ReadError."""
    if of_records(paths[0]) and not (paths[0] / "record.json").is_file():
        raise ReadError(f"{shown(str(paths[0]))}: no record lies below; name the logs of one claim")
    claim = load_claim(paths, arguments.track, arguments.ledger, arguments.loss, arguments.step)
    bare = next((p for p in paths if (p / "logs").is_dir() and not (p / "record.json").is_file()), None)
    if bare and (claim.own or claim.damage):
        raise ReadError(f"{shown(str(bare))}: a record's folder without record.json; restore it, or name the "
                        f"logs alone")
    return claim


def rebuilt(claim: Claim) -> Result:
    """record.json and the block in README.md are, byte for byte, what the logs give."""
    if not claim.record:
        return Result("unknown", "these logs are no record yet")
    wrong = differences(claim)
    return Result("fail", first_of(wrong)) if wrong else Result("ok", "record.json and README.md")


CHECKS = (*of_a_claim.CHECKS, rebuilt)
OF_PUBLIC = (of_a_claim.framing, of_a_claim.code, of_a_claim.distinct, of_a_claim.pace, of_a_claim.place,
             of_a_claim.scan, of_a_claim.significance)  # others look at what our format alone has


def check_all(claim: Claim) -> dict[str, Result]:
    """Return what each check found, by name, in order.

    A log that holds a value where no harness writes one fails the check that stumbles on it.
    """
    results = {}
    for check in CHECKS:
        readable = claim.runs or check in (of_a_claim.framing, of_a_claim.hashes)
        try:
            result = Result("unknown", "no whole log")
            if readable and not claim.own and check not in OF_PUBLIC:
                result = of_a_public_run.public_result(check.__name__, claim) or Result("unknown", NOT_SHOWN)
            elif readable:
                result = each_run(check, claim) if check in OF_A_RUN else check(claim)
        except IMPOSSIBLE as error:
            result = Result("fail", str(error) if isinstance(error, ReadError) else impossible_value(error))
        results[check.__name__] = result
    return results


def line(judgement: Judgement, path: Path) -> str:
    """Return a claim among others in one line, with the checks that fail or want a reader, and its notes."""
    failed = "".join(f"; {name}: {judgement.checks[name].evidence}" for name in judgement.broken)
    runs = number_of([*judgement.claim.runs, *judgement.claim.damage], "run")
    return (f"{judgement.word:<10} {shown(path.name, 60)} ({judgement.claim.track}, {runs}): "
            f"{'; '.join([judgement.reason + failed, *judgement.claim.notes])}")


def text(judgement: Judgement) -> str:
    """Return what a claim's judgement looks like on a terminal."""
    claim = judgement.claim
    head = f"{claim.record}, " if claim.record else ""
    lines = [f"{head}track {claim.track}, {number_of([*claim.runs, *claim.damage], 'run')}"]
    lines += [f"{MARKS[r.state]} {name}: {r.evidence}" for name, r in judgement.checks.items()
              if claim.own or r.evidence != NOT_SHOWN]
    lines += [f"note: {note}" for note in claim.notes]
    lines.append(f"{judgement.word}: {judgement.reason}")
    if claim.runs and not claim.own:
        hidden = [name for name, r in judgement.checks.items() if r.evidence == NOT_SHOWN]
        lines.append(f"this layout does not show {', '.join(hidden)}; {of_a_public_run.LITTLE}")
    elif judgement.code == 0 and judgement.word == "NOT SHOWN":
        decide = "decides" if len(claim.runs) == 1 else "decide"
        lines.append(f"sound, but {number_of(claim.runs, 'log')} {decide} nothing; the first declared look "
                     f"is at {FEWEST} runs")
    return "\n".join(lines)


def as_json(judgement: Judgement) -> dict[str, Any]:
    """Return a claim's judgement for machines."""
    claim = judgement.claim
    return {"record": claim.record and str(claim.record), "track": claim.track, "word": judgement.word,
            "reason": judgement.verdict.reason, "exit_code": judgement.code,
            "review": judgement.having("review"), "notes": claim.notes,
            "runs": [{"file": str(r.path), "run_id": r.run_id, "sha256": r.sha256} for r in claim.runs],
            "checks": [{"name": name, "result": r.state, "evidence": r.evidence, "every": list(r.every)}
                       for name, r in judgement.checks.items()]}
