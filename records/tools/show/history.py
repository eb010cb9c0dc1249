"""Draws the record history of a track: the time to its target, falling."""
import datetime
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from records.tools.read.log import read_bytes
from records.tools.read.values import ReadError, need, number, parse_json, shown
from records.tools.show.figure import GREY, PALETTE, figure_for, titles


@dataclass(frozen=True)
class Record:
    """What record.json says of a record; time to the target in s, mean over its runs and their sd."""

    date: datetime.date
    time_s: float
    sd_s: float
    name: str
    track: str
    begun: str = ""  # UTC, when its first run began

    @property
    def order(self) -> tuple:
        """What records are sorted by: of one day the first begun, else the slowest, comes first."""
        return self.date, self.begun, -self.time_s


def read_records(folder: Path) -> Iterator[Record]:
    """Yield what each record.json in a track's folder says, those that show nothing left out.

    Raises ReadError where one is bad, or none is there.
    """
    paths = sorted(folder.glob("*/record.json"))
    if not paths:
        raise ReadError(f"{shown(str(folder))}: no */record.json in it; name a track's folder in records/")
    drawn = False
    for path in paths:
        try:
            fields = parse_json(read_bytes(path).decode())
            time = need(fields, "train_time_s", dict)
            mean, sd = number(time.get("mean")), number(time.get("sd") or 0)
            date = datetime.date.fromisoformat(need(fields, "date", str))
            if not (0 < mean < 1e9 and 0 <= sd < 1e9 and 2000 <= date.year < 2200):  # else no axis fits
                raise ReadError(f"found date {date} and train_time_s {mean} with sd {sd}, expected a date "
                                "from 2000 on and a time above 0 and below 1e9 s")
            shows = need(fields, "significance", dict) if "significance" in fields else {}
            if shows.get("word", "PROVEN") not in ("PROVEN", "PROMISING"):
                print(f"passed over: {shown(path.parent.name)}: {shown(str(shows['word']))}", file=sys.stderr)
                continue
            drawn = True
            yield Record(date, mean, sd, shown(need(fields, "name", str), 40), need(fields, "track", str),
                         str(fields.get("begun", "")))
        except (ReadError, ValueError) as error:
            raise ReadError(f"{shown(path.parent.name)}/record.json: {shown(str(error), 200)}") from None
    if not drawn:
        raise ReadError(f"{shown(str(folder))}: none of its records is PROVEN or PROMISING")


def draw_history(records: list[Record], output: Path) -> None:
    """Draw the time of each record over its date, and a staircase of the best time so far.

    Records of one day stand side by side in it, in their order.
    """
    if len(tracks := sorted({record.track for record in records})) > 1:
        raise ReadError(f"tracks {shown(', '.join(tracks))}: their times do not compare; draw one track")
    days: dict[datetime.date, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.order):
        days.setdefault(record.date, []).append(record)
    unit, scale = ("min", 60) if max(record.time_s for record in records) >= 600 else ("s", 1)
    with figure_for(output) as figure:
        from matplotlib import dates, ticker
        axes, points = figure.subplots(), []
        for day, of_day in days.items():
            for i, record in enumerate(of_day):
                place, time = dates.date2num(day) + (i + 0.5) / len(of_day), record.time_s / scale
                points.append((place, time, record.name))
                axes.errorbar(place, time, record.sd_s / scale, fmt="o", color=PALETTE[0], markersize=5,
                              capsize=3)
        x, y, _ = zip(*points)
        axes.step(x, list(accumulate(y, min)), where="post", color=PALETTE[0], linewidth=1.8)
        axes.set_yscale("log")
        marks = (1, 1.5, 2, 3, 4, 5, 7) if max(y) < 50 * min(y) else (1,)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=marks))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        first, last = dates.date2num(min(days)), dates.date2num(max(days)) + 1
        margin = 0.02 * (last - first)
        axes.set_xlim(first - margin, last + margin)
        short = last - first < 8
        axes.xaxis.set_major_locator(dates.DayLocator() if short else dates.AutoDateLocator(maxticks=8))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%Y-%m-%d"))
        axes.set(xlabel="date", ylabel=f"training time to the target ({unit})")
        titles(axes, tracks[0])
        write_names(figure, axes, points)


def write_names(figure: Any, axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Write a name at each point (x, y, name), above the stairs or below them, where none stands yet."""
    from matplotlib.text import Text
    figure.draw_without_rendering()  # the layout, so that a name's place is known
    places = [(sign * (6 + 3 * i), sign * (9 + 11 * i)) for i in range(9) for sign in (1, -1)]
    taken: list[Any] = []
    for x, y, name in points:
        for right, up in places:
            line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6} if abs(up) > 9 else None
            note = axes.annotate(name, (x, y), xytext=(right, up), textcoords="offset points", va="center",
                                 ha="left" if right > 0 else "right", fontsize=8.5, arrowprops=line)
            note.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(note)  # without its line
            inside = box.x0 > axes.bbox.x0 and box.y0 > axes.bbox.y0
            if inside and not any(map(box.overlaps, taken)):
                break
            if (right, up) != places[-1]:
                note.remove()
        taken.append(box)
