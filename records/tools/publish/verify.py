"""Checks what logs or a record claim: each check with its evidence, then one word."""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.tools.check.of_a_claim import capped, run_checks
from records.tools.check.claim import FEWEST, LEDGER, Case, load_case
from records.tools.check.of_a_run import Result, number_of
from records.tools.read.values import ReadError, json_text, shown

NO_RULE = ("significance", "all_attempts")  # a claim that fails these alone is weak, not INVALID
MARKS = {"ok": "ok     ", "fail": "FAIL   ", "review": "REVIEW ", "unknown": "unknown"}


@dataclass
class Judged:
    """A claim, what each check found, and the word."""

    case: Case
    checks: dict[str, Result]
    word: str
    reason: str

    @property
    def code(self) -> int:
        """The exit code: 0 where no check fails and more runs may still show what is claimed."""
        few = self.word == "NOT SHOWN" and len(self.case.runs) < FEWEST
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
    judged, codes = [], []
    for paths in claims(arguments.paths):
        try:
            judged.append(judge(load_claim(paths, arguments)))
        except ReadError as error:
            where = f"{shown(str(paths[0]), 300)}: " if (paths[0] / "record.json").is_file() else ""
            print(f"records verify: {where}{error}", file=sys.stderr)
            codes.append(2)
            continue
        codes.append(judged[-1].code)
        if not arguments.json:
            print(text(judged[-1], arguments.stable))
    if arguments.json:
        print(json_text([as_json(each) for each in judged]), end="")
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


def load_claim(paths: list[Path], arguments: argparse.Namespace) -> Case:
    """Return the claim that paths make. Raises ReadError."""
    if of_records(paths[0]) and not (paths[0] / "record.json").is_file():
        raise ReadError(f"{shown(str(paths[0]))}: no record lies below; name the logs of one claim")
    if bare := next((p for p in paths if (p / "logs").is_dir() and not (p / "record.json").is_file()), None):
        raise ReadError(f"{shown(str(bare))}: a record's folder without record.json; restore it, or name the "
                        f"logs alone")
    return load_case(paths, arguments.track, arguments.ledger)


def judge(case: Case) -> Judged:
    """Run all checks on a claim and draw the conclusion."""
    checks = run_checks(case)
    judged = Judged(case, checks, "INVALID", "")
    if broken := judged.broken:
        judged.reason = f"{', '.join(broken)} failed"
    else:
        decided = capped(case, checks["all_attempts"], checks["data"])
        judged.word, judged.reason = decided.word, decided.reason
    return judged


def text(judged: Judged, stable: bool) -> str:
    """Return what a claim's judgement looks like on a terminal."""
    case = judged.case
    lines = [f"{MARKS[r.state]} {name}" + ("" if stable else f": {r.evidence}")
             for name, r in judged.checks.items()]
    head = f"{case.record}, " if case.record and not stable else ""
    lines.insert(0, f"{head}track {case.track}, {number_of([*case.runs, *case.damage], 'run')}")
    review = ", ".join(judged.having("review"))
    lines.append(f"{judged.word}" + ("" if stable else f": {judged.reason}") +
                 (f" (REVIEW: {review})" if review else ""))
    if len(case.own) < len(case.runs) and not judged.having("fail"):
        lines.append("nothing speaks against it, but the format shows little")
    elif judged.code == 0 and judged.word == "NOT SHOWN":
        decide = "decides" if len(case.runs) == 1 else "decide"
        lines.append(f"sound, but {number_of(case.runs, 'log')} {decide} nothing; the first declared look is "
                     f"at {FEWEST} runs")
    return "\n".join(lines)


def as_json(judged: Judged) -> dict[str, Any]:
    """Return a claim's judgement for machines."""
    case = judged.case
    return {"record": case.record and str(case.record), "track": case.track, "word": judged.word,
            "reason": judged.reason, "review": judged.having("review"), "exit_code": judged.code,
            "runs": [{"file": str(run.trial.path), "run_id": run.run_id, "sha256": run.sha256}
                     for run in case.runs],
            "checks": [{"name": name, "result": r.state, "evidence": r.evidence}
                       for name, r in judged.checks.items()]}
