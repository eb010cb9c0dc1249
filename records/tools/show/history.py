"""Draws how a track's records fell: their time as a ratio to the first one's, multiplied up over races."""
from collections import Counter
from pathlib import Path
from typing import Any

from records.tools.check.standings import Standing, standings
from records.tools.read.values import ReadError, shown
from records.tools.show.figure import GREY, PALETTE, figure_for, titles


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
