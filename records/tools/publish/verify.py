"""Checks what logs or a record claim: each check with its evidence, then one word."""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.tools.check.claim import FEWEST, LEDGER, Claim, load_claim
from records.tools.check import of_a_claim
from records.tools.check.of_a_claim import conclude
from records.tools.check.of_a_run import IMPOSSIBLE, Result, first_of, impossible_value, number_of
from records.tools.check.significance import Verdict
from records.tools.publish.record import differences
from records.tools.read.values import ReadError, json_text, shown

NO_RULE = ("significance", "all_attempts")  # a claim that fails these alone is weak, not INVALID
MARKS = {"ok": "ok     ", "fail": "FAIL   ", "review": "REVIEW ", "unknown": "unknown"}


@dataclass
class Judgement:
    """A claim, what each check found, and what follows."""

    claim: Claim
    checks: dict[str, Result]
    verdict: Verdict

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return self.verdict.word

    @property
    def code(self) -> int:
        """The exit code: 0 where no check fails and more runs may still show what is claimed."""
        few = self.word == "NOT SHOWN" and len(self.claim.runs) < FEWEST
        return int(bool(self.having("fail")) or not (few or self.word in ("PROVEN", "PROMISING")))

    @property
    def broken(self) -> list[str]:
        """The names of the checks that make the claim INVALID."""
        return [name for name in self.having("fail") if name not in NO_RULE]

    def having(self, state: str) -> list[str]:
        """Return the names of the checks with a result."""
        return [name for name, result in self.checks.items() if result.state == state]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("paths", metavar="LOG|DIR", nargs="+", type=Path,
                        help="logs of one claim, a record's folder, or a folder with records below")
    parser.add_argument("--ledger", metavar="FILE", type=Path, help="default: ledger.jsonl beside the logs")
    parser.add_argument("--track", help="of logs that name none; default: fineweb")
    parser.add_argument("--stable", action="store_true", help="leave out the evidence, which names times")
    parser.add_argument("--json", action="store_true", help="print one JSON array, an entry a claim")


def main(arguments: argparse.Namespace) -> int:
    """Check each claim and print what was found; return the exit code.

    1 where one claim does not hold, 2 where one cannot be read; the others are judged all the same.
    """
    judgements, codes = [], []
    for paths in claims(arguments.paths):
        try:
            judgements.append(judge(claim_of(paths, arguments)))
        except ReadError as error:
            where = f"{shown(str(paths[0]), 300)}: " if (paths[0] / "record.json").is_file() else ""
            print(f"records verify: {where}{error}", file=sys.stderr)
            codes.append(2)
            continue
        codes.append(judgements[-1].code)
        if not arguments.json:
            print(text(judgements[-1], arguments.stable))
    if arguments.json:
        print(json_text([as_json(each) for each in judgements]), end="")
    return max(codes)


def claims(paths: list[Path]) -> list[list[Path]]:
    """Return the claims among paths: each record below a folder is one; all else together is one."""
    found, rest = [], []
    for path in paths:
        below = sorted(each.parent for each in path.rglob("record.json")) if path.is_dir() else []
        found += [[folder] for folder in below]
        if not below and of_records(path):
            found.append([path])
        elif not below:
            rest.append(path)
    return found + [rest] * bool(rest)


def of_records(path: Path) -> bool:
    """Tell whether a folder is one for records: in its runs/ lie those of all experiments, no claim."""
    return (path / "runs" / LEDGER).is_file()


def claim_of(paths: list[Path], arguments: argparse.Namespace) -> Claim:
    """Return the claim that paths make. Raises ReadError."""
    if of_records(paths[0]) and not (paths[0] / "record.json").is_file():
        raise ReadError(f"{shown(str(paths[0]))}: no record lies below; name the logs of one claim")
    if bare := next((p for p in paths if (p / "logs").is_dir() and not (p / "record.json").is_file()), None):
        raise ReadError(f"{shown(str(bare))}: a record's folder without record.json; restore it, or name the "
                        f"logs alone")
    return load_claim(paths, arguments.track, arguments.ledger)


def rebuilt(claim: Claim) -> Result:
    """record.json and the block in README.md are, byte for byte, what the logs give."""
    if not claim.record:
        return Result("unknown", "these logs are no record yet")
    wrong = differences(claim)
    return Result("fail", first_of(wrong)) if wrong else Result("ok", "record.json and README.md")


CHECKS = (*of_a_claim.CHECKS, rebuilt)


def check_all(claim: Claim) -> dict[str, Result]:
    """Return what each check found, by name, in order.

    A log that holds a value where no harness writes one fails the check that stumbles on it.
    """
    results = {}
    for check in CHECKS:
        if not claim.runs and check not in (of_a_claim.framing, of_a_claim.hashes):
            results[check.__name__] = Result("unknown", "no whole log")
            continue
        try:
            results[check.__name__] = check(claim)
        except ReadError as error:
            results[check.__name__] = Result("fail", str(error))
        except IMPOSSIBLE as error:
            results[check.__name__] = Result("fail", impossible_value(error))
    return results


def judge(claim: Claim) -> Judgement:
    """Run all checks on a claim and draw the conclusion."""
    judgement = Judgement(claim, check_all(claim), Verdict("INVALID", "", None))
    if broken := judgement.broken:
        judgement.verdict = Verdict("INVALID", f"{', '.join(broken)} failed", None)
    else:
        needed = judgement.checks["all_attempts"], judgement.checks["data"]
        judgement.verdict = conclude(claim, *needed)
    return judgement


def text(judgement: Judgement, stable: bool) -> str:
    """Return what a claim's judgement looks like on a terminal."""
    claim = judgement.claim
    lines = [f"{MARKS[r.state]} {name}" + ("" if stable else f": {r.evidence}")
             for name, r in judgement.checks.items()]
    head = f"{claim.record}, " if claim.record and not stable else ""
    lines.insert(0, f"{head}track {claim.track}, {number_of([*claim.runs, *claim.damage], 'run')}")
    review = ", ".join(judgement.having("review"))
    lines.append(f"{judgement.word}" + ("" if stable else f": {judgement.verdict.reason}") +
                 (f" (REVIEW: {review})" if review else ""))
    if len(claim.own) < len(claim.runs) and not judgement.having("fail"):
        lines.append("nothing speaks against it, but the format shows little")
    elif judgement.code == 0 and judgement.word == "NOT SHOWN":
        decide = "decides" if len(claim.runs) == 1 else "decide"
        lines.append(f"sound, but {number_of(claim.runs, 'log')} {decide} nothing; the first declared look "
                     f"is at {FEWEST} runs")
    return "\n".join(lines)


def as_json(judgement: Judgement) -> dict[str, Any]:
    """Return a claim's judgement for machines."""
    claim = judgement.claim
    return {"record": claim.record and str(claim.record), "track": claim.track, "word": judgement.word,
            "reason": judgement.verdict.reason, "review": judgement.having("review"),
            "exit_code": judgement.code,
            "runs": [{"file": str(run.path), "run_id": run.run_id, "sha256": run.sha256}
                     for run in claim.runs],
            "checks": [{"name": name, "result": r.state, "evidence": r.evidence}
                       for name, r in judgement.checks.items()]}
