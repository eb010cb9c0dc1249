"""Makes a record of logs: checks them, then writes its folder whole or not at all."""
import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

from records.tools.check.claim import LEDGER, RACE, Claim, attempts, load_claim
from records.tools.publish.leaderboard import read_all
from records.tools.read.log import read_bytes
from records.tools.publish.record import NAME, build, skeleton, unanswered
from records.tools.check.significance import LOOKS
from records.tools.publish.verify import Judgement, as_json, judge
from records.tools.read.values import ReadError, json_text, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="all runs of one submission")
    parser.add_argument("--name", required=True, help="letters, digits, - and _")
    parser.add_argument("--race", metavar="DIR", type=Path, help="a race against the record before it")
    parser.add_argument("--ledger", metavar="FILE", type=Path, help="default: ledger.jsonl beside the logs")
    parser.add_argument("--to", metavar="DIR", type=Path, default=Path("records"), help="default: records")
    parser.add_argument("--json", action="store_true", help="print verify's JSON object and what is missing")


def main(arguments: argparse.Namespace) -> int:
    """Write the record, say what is missing and what to do next; 1 where the logs are no record."""
    if not NAME.fullmatch(arguments.name):
        raise ReadError(f"--name {shown(arguments.name)}: use up to 60 letters, digits, - and _, no space")
    claim = load_claim(arguments.logs, ledger=arguments.ledger)
    if arguments.race:
        claim.races = [arguments.race]
    judgement = judge(claim)
    if judgement.word in ("INVALID", "REFUTED"):
        if arguments.json:
            print(json_text(as_json(judgement) | {"missing": []}), end="")
            return 1
        for name in judgement.broken:
            print(f"{name}: {judgement.checks[name].evidence}")
        print(f"{judgement.word}, no record: {judgement.verdict.reason}")
        return 1
    if len(claim.own) < len(claim.runs):
        raise ReadError("a record is made of logs of format 1 (docs/log_format.md); others are none")
    folder = write(claim, arguments)
    judgement = judge(load_claim([folder]))
    if arguments.json:
        print(json_text(as_json(judgement) | {"missing": missing(judgement)}), end="")
        return judgement.code
    print(f"wrote {folder}: {judgement.word}: {judgement.verdict.reason}")
    for line in missing(judgement):
        print(f"missing: {line}")
    for command in (f"python -m records verify {folder}", "python -m records leaderboard",
                    f"git add {folder} README.md"):
        print(f"next: {command}")
    return judgement.code


def write(claim: Claim, arguments: argparse.Namespace) -> Path:
    """Write a record's folder and return it: built aside, then renamed; an existing one is refused."""
    runs = sorted(claim.own, key=lambda run: run.run_id)
    try:
        (arguments.to / claim.track).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=arguments.to / claim.track) as aside:
            folder = Path(aside) / "record"
            (folder / "logs").mkdir(parents=True)
            for run in runs:
                if not run.run_id.replace("_", "").isalnum():
                    raise ReadError(f"{run.name}: run id {shown(run.run_id)} is no name for a file")
                (folder / "logs" / f"{run.run_id}.txt").write_bytes(read_bytes(run.path))
            digest = str(runs[0].at("code", "digest"))
            if lines := ledger_lines(claim, digest):
                (folder / "logs" / LEDGER).write_text(lines)
            if arguments.race:
                (folder / "race").mkdir()
                for path in (arguments.race / RACE, *arguments.race.glob("*.txt")):
                    (folder / "race" / path.name).write_bytes(read_bytes(path))
            made = dataclasses.replace(claim, runs=runs, ledgers=sorted((folder / "logs").glob(LEDGER)),
                                       record=folder, races=[folder / "race"] if arguments.race else [])
            record = build(made, arguments.name)
            (folder / "record.json").write_text(json_text(record))
            (folder / "README.md").write_text(skeleton(record))
            target = arguments.to / claim.track / f"{record['date']}_{record['name']}"
            if os.path.lexists(target):
                raise ReadError(f"{target}: is there already; records are never overwritten, rename yours")
            folder.rename(target)
    except OSError as error:
        raise ReadError(f"{shown(str(error.filename or arguments.to))}: {error.strerror}") from None
    return target


def ledger_lines(claim: Claim, digest: str) -> str:
    """Return the ledger's lines of this code: every attempt, so that a reader can count them too."""
    lines = ""
    for ledger in claim.ledgers:
        for entry in attempts(ledger, digest, claim.track):
            status = entry.pop("status")
            lines += json_text(entry, None)
            if status != "incomplete":
                lines += json_text({"what": "end", "run_id": entry["run_id"], "status": status}, None)
    return lines


def missing(judgement: Judgement) -> list[str]:
    """Return in words what a record still lacks."""
    folder, n = judgement.claim.record, len(judgement.claim.losses())
    assert folder is not None
    lines = [f"README.md: section {title}" for title in unanswered((folder / "README.md").read_text())]
    if judgement.word != "PROVEN":
        look = next((look for look in LOOKS if look >= n + (n in LOOKS)), None)
        lines.append(f"runs with other seeds: {look - n} more, up to the declared look at {look}" if look else
                     "a proof: no declared look is left")
    before = [path for path, _ in read_all(folder.parent) if path.parent != folder]
    if not (folder / "race").is_dir() and before:
        lines.append(f"a race against the present record: python -m records race {folder} "
                     f"{before[-1].parent}, then submit with --race")
    lines += [f"a reader's eye on {name}: {judgement.checks[name].evidence}"
              for name in judgement.having("review")]
    if judgement.checks["all_attempts"].state != "ok":
        lines.append(f"attempts: {judgement.checks['all_attempts'].evidence}")
    return lines
