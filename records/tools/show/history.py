"""Writes what logs alone say of the history of tracks; draws what races say of a track's records."""
import argparse
import math
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

from records.tools.check.claim import FALLBACK, FEWEST
from records.tools.check.of_a_claim import measured
from records.tools.check.standings import Standing, standings
from records.tools.read.log import read_bytes
from records.tools.read.logs import DATED, LOGS, dated
from records.tools.read.run import Run
from records.tools.read.tracks import public_rows
from records.tools.read.values import NoLog, ReadError, cell, is_finite, json_text, shown, write_whole
from records.tools.show.compare import finals
from records.tools.show.figure import GREY, PALETTE, figure_for, titles
from records.tools.show.group import Group, groups_of, read_runs

ARGUMENTS = {
    "logs": {**LOGS, "help": "folders of records, each in a folder whose name begins in its date; or logs"},
    "--readme": {"metavar": "FILE", "nargs": "+", "type": Path, "default": [],
                 "help": "README files whose tables link the logs: what they say stands beside"},
    "-o --output": {"metavar": "FOLDER", "type": Path, "help": "write history.md and figures there"},
    "--json": "print a JSON array, an object a record",
}
COLUMNS = ("#", "date", "record", "steps", "val_loss", "n", "time (s)", "device", "code", "README",
           "README - logs")
NOTE = "From logs alone. Times of other hosts and sittings do not compare: what is faster only a race tells."
TABLE_ROW = re.compile(r"\|? {0,9}(\d{1,4}) {0,9}\|([^|]{0,200})\|")
LINK = re.compile(r"\]\(([^()\s:]{1,300})\)")
SECONDS = {"second": 1, "minute": 60, "hour": 3600}


@dataclass
class Row:
    """What the logs of one script say: mean loss over seeds, mean time over runs on its fastest device."""

    track: str
    date: str
    record: str
    steps: int
    val_loss: float
    sd: float | None
    n: int
    time_s: float | None
    device: str | None
    code: str | None
    paths: list[str]
    number: int | None = None
    readme: str | None = None

    @property
    def cost(self) -> float:
        """What its track counts: steps where it has nothing to do with time, else seconds."""
        return float(self.steps) if counts_steps(self.track) else self.time_s or math.inf

    @property
    def off(self) -> float | None:
        """By how many seconds the README's time exceeds that of the logs; None where it tells none."""
        told = re.match(r"(\d{1,9}(?:\.\d{1,9})?) (second|minute|hour)", self.readme or "")
        return float(told[1]) * SECONDS[told[2]] - self.time_s if told and self.time_s else None


def main(arguments: argparse.Namespace) -> int:
    """Write the history; return the exit code."""
    entries = [scripts(entry) for path in arguments.logs for entry in dated(path)]
    rows = sorted(numbered([entry for entry in entries if entry], arguments.readme),
                  key=lambda row: (row.track, row.number or 9999, row.date, row.record))
    if not rows:
        raise ReadError(f"{shown(', '.join(map(str, arguments.logs)))}: no log there of a run that ended")
    page = "\n".join((NOTE, *table(rows))) + "\n"
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.output / "history.md", page)
        for track in dict.fromkeys(row.track for row in rows):
            if drawn := [row for row in rows if row.track == track and 0 < row.cost < math.inf]:
                draw_costs(drawn, arguments.output / f"{re.sub(r'[^a-zA-Z0-9]', '_', track[:60])}.png")
    found = [asdict(row) | {"readme_less_logs_s": row.off} for row in rows]
    print(json_text(found) if arguments.json else page, end="")
    return 0


def counts_steps(track: str) -> bool:
    """Tell whether a public track's result is a number of steps."""
    return "nats_per_step" in public_rows().get(track, {})


def scripts(place: Path) -> list[Row]:
    """Return what the scripts of a record's folder or a log say, the best first; copies are left out.

    Those with enough seeds come before others.
    """
    runs: dict[Any, Run] = {}
    try:
        for run in read_runs([place], "history", once=False):
            runs.setdefault(measured(run) or (run.path, run.index), run)
        groups = groups_of(runs.values())
    except ReadError as error:
        if not isinstance(error, NoLog):
            print(f"records history: passed over {error}", file=sys.stderr)
        return []
    if all(run.log is None and run.code is None for run in runs.values()):
        groups = [Group(place.name, list(runs.values()))]  # no log tells which script it ran
    rows = [row_of_group(group, place.resolve()) for group in groups if group.finished]
    return sorted(rows, key=lambda row: (-min(row.n, FEWEST), row.cost))


def row_of_group(group: Group, place: Path) -> Row:
    """Return what a script's finished runs say, without those that ended at another step than most."""
    [(step, _)] = Counter(run.last.step for run in group.finished).most_common(1)
    runs = [run for run in group.finished if run.last.step == step]
    losses, first = list(finals(Group(group.name, runs)).losses.values()), runs[0]
    times: dict[str | None, list[float]] = {}
    for run in runs:
        if is_finite(run.last.time_ms):
            times.setdefault(run.device, []).append(run.last.time_ms / 1e3)
    means = {device: statistics.mean(of_device) for device, of_device in times.items()}
    device = min(means, key=means.__getitem__, default=first.device)
    sd = float(statistics.stdev(map(Decimal, losses))) if len(losses) > 1 else None  # of 1e308 too
    date, code = DATED.match(place.name), first.at("code", "digest") or first.script_sha256
    return Row(first.track or FALLBACK, "-".join(date.groups()) if date else "-", place.name, step,
               statistics.mean(losses), sd, len(losses), means.get(device), device, code and str(code)[:8],
               [str(run.path.resolve()) for run in runs])


def numbered(entries: list[list[Row]], readmes: list[Path]) -> Iterator[Row]:
    """Yield of each entry the scripts that a README links, with their numbers there; else the best one.

    Without a README the number is the place by date in its track.
    """
    links = [(f"{(readme.parent / link.removesuffix('README.md')).resolve()}/", told) for readme in readmes
             for line in read_bytes(readme).decode(errors="replace").splitlines()
             if (told := TABLE_ROW.match(line)) for link in LINK.findall(line)]  # a row's, its logs or folder
    counts: Counter[str] = Counter()
    for rows in sorted(entries, key=lambda rows: (rows[0].date, rows[0].record)):
        linked = {}
        for target, told in links:
            for row in [row for row in rows if any(f"{path}/".startswith(target) for path in row.paths)][:1]:
                linked[row.code] = row
                row.number, row.readme = int(told[1]), told[2].strip()
        for row in linked.values() or rows[:1]:
            counts[row.track] += 1
            row.number = row.number if links else counts[row.track]
            yield row


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the tracks' tables in Markdown; a stranger's words without markup."""
    for before, row in zip([None, *rows], rows):
        if before is None or before.track != row.track:
            rule = f"|{' --- |' * len(COLUMNS)}"
            yield from ("", f"## {cell(row.track)}", "", f"| {' | '.join(COLUMNS)} |", rule)
        sd, off = "" if row.sd is None else f" (sd {row.sd:.5f})", row.off
        cells = (row.number, row.date, row.record, row.steps, f"{row.val_loss:.5f}{sd}", row.n,
                 row.time_s and f"{row.time_s:.3f}", row.device, row.code, row.readme,
                 off and f"{off:+.1f} s")
        yield f"| {' | '.join('-' if each is None else cell(str(each)) for each in cells)} |"


def draw_costs(rows: list[Row], output: Path) -> None:
    """Draw what the records of one track cost, by date, and the least until then."""
    from matplotlib import ticker
    rows = sorted(rows, key=lambda row: (row.date, row.number or 0))
    costs = [row.cost for row in rows]
    with figure_for(output) as figure:
        axes = figure.subplots()
        axes.plot(costs, "o", color=PALETTE[0], markersize=4)
        axes.step(range(len(costs)), list(accumulate(costs, min)), where="post", color=GREY, linewidth=1)
        marked = range(0, len(rows), max(1, len(rows) // 24))
        names = [f"{rows[i].date} #{rows[i].number or '-'}" for i in marked]
        axes.set_xticks(marked, names, rotation=90, fontsize=7)
        axes.set(yscale="log", ylabel="steps" if counts_steps(rows[0].track) else "training time (s)")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(ticker.FormatStrFormatter("%g"))
        titles(axes, rows[0].track)


def read_records(folder: Path) -> list[Standing]:
    """Return the records in a track's folder and the attempts that were raced, in order of their making.

    Raises ReadError where one is bad, or none stands.
    """
    found = standings(folder)
    if not any(each.number for each in found):
        raise ReadError(f"{shown(str(folder))}: {len(found)} */record.json in it, none of them PROVEN; "
                        "name a track's folder in records/")
    return [each for each in found if each.ratio]


def draw_history(records: list[Standing], output: Path) -> None:
    """Draw the records of each class of hardware over their numbers, a class a panel."""
    if len(tracks := sorted({each.record["track"] for each in records})) > 1:
        raise ReadError(f"tracks {shown(', '.join(tracks))}: their times do not compare; draw one track")
    classes = list(dict.fromkeys(each.hardware for each in records if each.number))
    with figure_for(output) as figure:
        figure.set_size_inches(8, 1.5 + 3.5 * len(classes))
        panels = figure.subplots(len(classes), squeeze=False)[:, 0]
        for axes, hardware in zip(panels, classes):
            draw_class(axes, [each for each in records if each.hardware == hardware])
            axes.set_title(shown(hardware), loc="right", fontsize=9, color=GREY)
        titles(panels[0], tracks[0])
        marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(marks.values(), marks, loc="outside lower left", ncols=2, fontsize=9)


def draw_class(axes: Any, records: list[Standing]) -> None:
    """Draw records as a staircase, and the attempts behind the record that stood then."""
    from matplotlib import ticker
    places, after = [], Counter()
    for each in records:
        base = each.number or each.before.number
        after[base] += not each.number
        places.append(base + (0 if each.number else 1 - 0.5 ** after[base]))  # never at the next record's
    ends = [each.ratio.interval() or (each.ratio.value,) * 2 for each in records]
    for stands, colour, mark, label in ((True, PALETTE[0], "o", "record"), (False, GREY, "x", "attempt")):
        drawn = [(x, each.ratio.value, each.ratio.value - low, high - each.ratio.value)
                 for each, x, (low, high) in zip(records, places, ends) if bool(each.number) == stands]
        if drawn:
            x, y, below, above = zip(*drawn)
            axes.errorbar(x, y, (below, above), fmt=mark, color=colour, markersize=6, capsize=3,
                          label=f"{label}, with 95 % interval of the ratio to the first")
            if stands:
                axes.step([*x, x[-1] + 0.8], [*y, y[-1]], where="post", color=colour, linewidth=1.8)
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < 50 * low else (1,)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    names = [f"{each.number}\n{shown(each.record['name'], 20)}" if each.number else
             f"\n\n{shown(each.record['name'], 20)}" for each in records]
    crowded = {"rotation": 60, "ha": "right"} if len(records) > 6 else {}
    for tick, each in zip(axes.set_xticks(places, names, fontsize=9, **crowded), records):
        tick.label1.set_color("black" if each.number else GREY)
    axes.set(ylabel="time to equal loss (first = 1)", xlim=(0.6, max(places) + 0.9),
             ylim=(0.8 * low, 1.25 * high))
