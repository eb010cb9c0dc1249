"""Makes a record of logs: checks them, then writes its folder whole or not at all."""
import argparse
import dataclasses
import os
import shlex
import tempfile
from pathlib import Path

from records.tools.again import launch as launches
from records.tools.again.judge import judge_all, trusted
from records.tools.check.claim import LEDGER, Claim, attempts, load_claim
from records.tools.check.race import RACE, Race
from records.tools.check.significance import LOOKS
from records.tools.check.standings import standings
from records.tools.check.verdict import verdict_on, verdict_path
from records.tools.publish.record import NAME, build, skeleton, unanswered
from records.tools.publish.verify import Judgement, as_json
from records.tools.read.extract import write_files
from records.tools.read.log import read_bytes
from records.tools.read.logs import find_logs, locate
from records.tools.read.run import Run
from records.tools.read.values import ReadError, json_text, shown


ARGUMENTS = {
    "logs": {"metavar": "LOG", "nargs": "+", "type": locate, "help": "all runs of one submission"},
    "--name": {"required": True, "help": "letters, digits, - and _"},
    "--race": {"metavar": "DIR", "type": Path, "help": "a race against the record before it"},
    "--ledger": {"metavar": "FILE", "type": Path, "help": "default: ledger.jsonl beside the logs"},
    "--to": {"metavar": "DIR", "type": Path, "default": Path("records"), "help": "default: records"},
    "--json": "print verify's JSON object and what is missing",
}


def main(arguments: argparse.Namespace) -> int:
    """Write the record, say what is missing and what to do next; 1 where the logs are no record."""
    if not NAME.fullmatch(arguments.name):
        raise ReadError(f"--name {shown(arguments.name)}: use up to 60 letters, digits, - and _, no space")
    with launches.Signals() as signals:
        judge_all(filter(trusted, find_logs(arguments.logs)), signals, keep=True)
    claim = load_claim(arguments.logs, ledger=arguments.ledger)
    if arguments.race:
        claim.races = [Race(arguments.race)]
    judgement, lacks = Judgement(claim), []
    if judgement.word in ("INVALID", "REFUTED"):
        lines = [f"{name}: {judgement.checks[name].evidence}" for name in judgement.broken]
        lines.append(f"{judgement.word}, no record: {judgement.verdict.reason}")
    elif len(claim.own) < len(claim.runs):
        raise ReadError("a record is made of logs of format 1 (docs/log_format.md); others are none")
    else:
        folder = write(claim, arguments)
        judgement = Judgement(load_claim([folder]))
        lacks = missing(judgement)
        place = shlex.quote(str(folder))
        lines = [f"wrote {folder}: {judgement.word}: {judgement.verdict.reason}",
                 *(f"missing: {line}" for line in lacks),
                 "weights stay out of git: others judge by `rerun`, or by weights that the README links with "
                 "their sha256",
                 f"next: python -m records verify {place}", "next: python -m records leaderboard",
                 f"next: git add {place} README.md"]
    text = json_text(as_json(judgement) | {"missing": lacks}).strip() if arguments.json else "\n".join(lines)
    print(text)
    return judgement.code


def write(claim: Claim, arguments: argparse.Namespace) -> Path:
    """Write a record's folder and return it: built aside, then renamed; an existing one is refused."""
    runs = sorted(claim.own, key=lambda run: run.run_id)
    try:
        (arguments.to / claim.track).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=arguments.to / claim.track) as aside:
            folder = Path(aside) / "record"
            write_files(files_of(runs, claim, arguments.race), folder)
            made = dataclasses.replace(claim, runs=runs, ledgers=sorted((folder / "logs").glob(LEDGER)),
                                       record=folder, races=[Race(folder / "race")] if arguments.race else [])
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


def files_of(runs: list[Run], claim: Claim, race: Path | None) -> dict[str, bytes]:
    """Return the evidence of a record, name -> bytes: logs, every attempt with this code, the race."""
    if bad := next((run for run in runs if not run.run_id.replace("_", "").isalnum()), None):
        raise ReadError(f"{bad.name}: run id {shown(bad.run_id)} is no name for a file")
    digest, lines = str(runs[0].at("code", "digest")), ""
    for entry in (e for ledger in claim.ledgers for e in attempts(ledger, digest, claim.track)):
        status = entry.pop("status")
        lines += json_text(entry, None)
        if status != "incomplete":
            lines += json_text({"what": "end", "run_id": entry["run_id"], "status": status}, None)
    paths = {f"logs/{run.run_id}.txt": run.path for run in runs}
    paths |= {f"logs/{run.run_id}.judge.json": verdict_path(run.path) for run in runs if verdict_on(run)}
    if race:
        found = race / RACE, *race.glob("*.txt"), *race.glob("*.judge.json")
        paths |= {f"race/{path.name}": path for path in found}
    paths |= {f"logs/{path.name}": path for path in claim.campaigns}
    files = {name: read_bytes(path) for name, path in paths.items()}
    return files | {f"logs/{LEDGER}": lines.encode()} if lines else files


def missing(judgement: Judgement) -> list[str]:
    """Return in words what a record still lacks."""
    folder, n = judgement.claim.record, len(judgement.claim.losses())
    assert folder is not None
    lines = [f"README.md: section {title}" for title in unanswered((folder / "README.md").read_text())]
    if judgement.claim.decide().word != "PROVEN":
        look = next((look for look in LOOKS if look >= n + (n in LOOKS)), None)
        lines.append(f"runs with other seeds: {look - n} more, up to the declared look at {look}" if look else
                     "a proof: no declared look is left")
    own = next(each for each in standings(folder.parent) if each.folder == folder)
    if own.before and own.ratio is None:
        script = f"submissions/{own.before.folder.name}.py"  # on today's harness, not on its own
        checkout, race = (shlex.join(["python", "-m", "records", *words]) for words in (
            ["checkout", str(own.before.folder), script], ["race", str(folder), script]))
        lines.append(f"a race against the present record ({own.speed}): {checkout}, {race}, then submit with "
                     "--race")
    lines += [f"a reader's eye on {name}: {judgement.checks[name].evidence}"
              for name in judgement.having("review")]
    return lines + [f"{what}: {judgement.checks[name].evidence}"
                    for what, name in (("attempts", "all_attempts"), ("data", "data"))
                    if judgement.checks[name].state != "ok"]
