"""Writes each track's table in README.md from the records."""
import argparse
import difflib
from pathlib import Path
from typing import Any

from records.tools.check.of_a_run import number_of
from records.tools.publish.record import NAME, cell, replaced, with_sd
from records.tools.read import tracks
from records.tools.read.log import read_bytes
from records.tools.read.values import ReadError, json_text, need, number, parse_json, shown

MARKER = "<!-- leaderboard {} {} -->"


ARGUMENTS = {
    "--check": "write nothing; exit code 1 where one is old",
    "--readme": {"metavar": "FILE", "type": Path},
    "--records": {"metavar": "DIR", "type": Path},
    "--json": "print one JSON object in place of words",
}


def main(arguments: argparse.Namespace) -> int:
    """Write the tables, or compare them byte for byte; return the exit code."""
    readme = arguments.readme or tracks.ROOT / "README.md"
    records, name = arguments.records or tracks.ROOT / "records", readme.name
    try:
        new = old = read_bytes(readme).decode()
    except UnicodeDecodeError as error:
        raise ReadError(f"{shown(name)}: {error}") from None
    if not records.is_dir():
        raise ReadError(f"--records {shown(str(records))}: no such folder")
    names = list(tracks.load_rows())
    for track in names:
        begin, end = MARKER.format(track, "begin"), MARKER.format(track, "end")
        if (block := table(track, records)) or begin in new:  # a new track may have neither
            new = replaced(new, begin, end, f"{begin}\n{block}{end}", name)
    if MARKER.partition("{}")[0] not in old:
        raise ReadError(f"{shown(name)}: expected {MARKER.format('TRACK', 'begin')} in it; there is no table")
    if new != old and not arguments.check:
        try:
            readme.write_text(new)
        except OSError as error:
            raise ReadError(f"{shown(name)}: cannot be written ({error.strerror})") from None
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


def table(track: str, records: Path) -> str:
    """Return a track's block, its records in order of date; empty where there is none."""
    found = read_all(records / track)
    if not found:
        return ""
    names = {str(record.get("code")): record["name"] for _, record in found}
    rows = [row(i, path.parent, record, names) for i, (path, record) in enumerate(found, start=1)]
    return (f"**Records of `{track}`**, written by `python -m records leaderboard` from its folder:\n\n"
            "| # | record | date | training time (s) | steps | val_loss | hardware | verdict | speed |\n"
            "|---|---|---|---|---|---|---|---|---|\n" + "\n".join([*rows, ""]))


def read_all(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return path and fields of each record.json of a folder, in the order in which they were made."""
    found = []
    for path in folder.glob("*/record.json"):
        try:
            fields = parse_json(read_bytes(path).decode())
            found.append((path, fields | {name: need(fields, name, str) for name in ("name", "date")}))
        except (ReadError, UnicodeDecodeError) as error:
            raise ReadError(f"{shown(path.parent.name)}/{shown(path.name)}: {error}") from None
    return sorted(found, key=lambda pair: (str(pair[1].get("begun")), str(pair[0])))


def row(place: int, folder: Path, record: dict[str, Any], names: dict[str, str]) -> str:
    """Return a record's row. names: code digest -> name of the record with that code."""
    try:
        if not NAME.fullmatch(record["name"]) or folder.name != f"{record['date']}_{record['name']}":
            raise ValueError("name and date are not those of the folder")
        loss = f"{with_sd(record['val_loss'], 4)}, n={record['n']}"
        hardware = f"{record['device']}, {number_of(range(record['world_size']), 'rank')}"
        cells = [record["date"], with_sd(record["train_time_s"], 1), record["steps"], loss, hardware,
                 record["significance"]["word"], speed(record["race"], names)]
        link = f"[{cell(record['name'])}](records/{folder.parent.name}/{folder.name})"
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ReadError(f"{shown(folder.name)}/record.json: {type(error).__name__}: {shown(str(error))}; "
                        f"run `verify` on it") from None
    return f"| {place} | {link} | {' | '.join(cell(str(value)) for value in cells)} |"


def speed(race: dict[str, Any] | None, names: dict[str, str]) -> str:
    """Return what a race showed, in a few words."""
    if not race:
        return "not raced"
    verdict, percent, code = race["verdict"], race["difference_percent"], race["against"]["code"]
    other = names.get(code, f"code {str(code)[:8]}")
    if percent is None:
        return f"{verdict} (against {other})"
    decided = verdict in ("faster", "slower")
    return f"{verdict} than {other}: {number(percent):+.1f} %" if decided else f"{verdict} against {other}"
