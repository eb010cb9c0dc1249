"""Writes each track's tables in README.md from the records: those that stand, and the attempts."""
import argparse
import difflib
import sys
from pathlib import Path
from urllib.parse import quote

from records.tools.check.claim import load_claim
from records.tools.check.standings import Standing, standings
from records.tools.publish.record import replaced, with_sd
from records.tools.publish.verify import Judgement
from records.tools.read import tracks
from records.tools.read.log import read_bytes
from records.tools.read.values import ReadError, cell, json_text, shown, write_whole

MARKER = "<!-- leaderboard {} {} -->"
HEAD = """**Records of `{}`**, written by `python -m records leaderboard`: proven, and faster by a race than
the record before on the same hardware. Time is the ratio to the first one's, multiplied up over the races,
with its 95 % interval; seconds of different sittings do not compare.
"""
RECORDS = ("#", "record", "date", "time", "steps", "val_loss", "against the record before")
ATTEMPTS = ("record", "date", "steps", "val_loss", "hardware", "verdict", "against the record before")
ARGUMENTS = {
    "--check": "write nothing; exit code 1 where one is old",
    "--json": "print one JSON object in place of words",
}


def main(arguments: argparse.Namespace) -> int:
    """Write the tables, or compare them byte for byte; return the exit code, 1 where a record is INVALID."""
    readme, records, names = tracks.ROOT / "README.md", tracks.ROOT / "records", list(tracks.load_rows())
    try:
        new = old = read_bytes(readme).decode()
    except UnicodeDecodeError as error:
        raise ReadError(f"{readme.name}: {error}") from None
    name = readme.name
    judged = {path.parent: Judgement(load_claim([path.parent])) for track in names
              for path in sorted((records / track).glob("*/record.json"))}
    if refused := [f"records leaderboard: {shown(folder.name)} is INVALID, so nothing is written: "
                   f"{shown(judgement.verdict.reason)}; see `verify` on it"
                   for folder, judgement in judged.items() if judgement.broken]:
        print(*refused, sep="\n", file=sys.stderr)
        return 1
    for track in names:
        held = {folder.name: judgement.word for folder, judgement in judged.items()
                if judgement.held and folder.parent.name == track}
        begin, end = MARKER.format(track, "begin"), MARKER.format(track, "end")
        if (block := table(track, records, held)) or begin in new:  # a new track may have neither
            new = replaced(new, begin, end, f"{begin}\n{block}{end}", name)
    if MARKER.partition("{}")[0] not in old:
        raise ReadError(f"{name}: expected {MARKER.format('TRACK', 'begin')} in it; there is no table")
    if new != old and not arguments.check:
        write_whole(readme, new)
    if arguments.json:
        print(json_text({"file": name, "tracks": names, "up_to_date": new == old,
                         "written": new != old and not arguments.check}, None), end="")
    elif arguments.check:
        pages = old.splitlines(True), new.splitlines(True)
        print(*difflib.unified_diff(*pages, name, "from the records"), sep="", end="")
        print(f"{name}: {'up to date' if new == old else 'not what the records give; run `leaderboard`'}")
    else:
        print(f"{name}: {', '.join(names)}{'' if new != old else ': unchanged'}")
    return int(arguments.check and new != old)


def table(track: str, records: Path, held: dict[str, str] | None = None) -> str:
    """Return a track's block: the records of each class of hardware, then the attempts; empty without any.

    held: folder -> its word, of records that something in verify keeps from PROVEN.
    """
    found = standings(records / track, held)
    lines = [HEAD.format(track)]
    for hardware in dict.fromkeys(each.hardware for each in found if each.number):
        best = [each for each in found if each.number and each.hardware == hardware]
        lines += [f"{cell(hardware)}:", "", *grid(RECORDS, best), ""]
    if attempts := [each for each in found if not each.number and not each.again]:
        lines += ["Attempts, which beat no record or are not proven:", "", *grid(ATTEMPTS, attempts), ""]
    if superseded := [cells(each) for each in found if each.again]:
        links = ", ".join(f"{texts['record']} of {texts['date']}" for texts in superseded)
        lines += [f"Superseded, made again with the same script on a newer harness: {links}.", ""]
    return "\n".join(lines) if found else ""


def grid(titles: tuple[str, ...], rows: list[Standing]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [titles, ("---",) * len(titles), *([cells(each)[title] for title in titles] for each in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def cells(standing: Standing) -> dict[str, str]:
    """Return what a table says of a record, by the title of the column; a stranger's words without markup."""
    record, folder = standing.record, standing.folder
    found = {
        "#": standing.number, "record": record["name"], "date": record["date"], "steps": record["steps"],
        "time": standing.ratio,
        "val_loss": f"{with_sd(record['val_loss'], 4)}, n={record['n']}", "hardware": standing.hardware,
        "verdict": record["significance"]["word"], "against the record before": standing.speed}
    texts = {title: cell(str(value)) for title, value in found.items()}
    return texts | {"record": f"[{texts['record']}](records/{quote(f'{folder.parent.name}/{folder.name}')})"}
