"""Draw img/architecture.png from the lists of docs/architecture.md: the ways of a token, a log and Ctrl-C.

Example: python bench/architecture_figure.py
"""
import argparse
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # run as a file, python puts bench/ on the path, not the repository
    sys.path.insert(0, str(ROOT))
from records.tools.show.figure import figure_for, GREY, PALETTE  # noqa: E402

STEP = re.compile(r"^\d+\. `([^`]+)`,? (.+)$", re.MULTILINE)
LINE, GAP = 0.19, 0.16  # inches: of text, between two boxes


def ways(page: str) -> dict[str, list[tuple[str, str]]]:
    """Return the numbered lists of a page: heading -> (where in the code, what happens there)."""
    sections = re.findall(r"^## (.+)\n\n((?:\d+\. .+\n)+)", page, re.MULTILINE)
    return {heading: STEP.findall(steps) for heading, steps in sections}


def draw(page: str, output: Path) -> None:
    """Write the figure: a column a list, a box a step, from top to bottom."""
    columns = ways(page)
    boxes = {heading: [(where, textwrap.wrap(words.replace("`", ""), 52)) for where, words in steps]
             for heading, steps in columns.items()}
    tall = max(sum(LINE * (1 + len(words)) + 0.16 + GAP for _, words in steps) for steps in boxes.values())
    with figure_for(output) as figure:
        figure.set_size_inches(4 * len(columns), tall + 0.6)
        axes = figure.add_subplot()
        axes.set(xlim=(0, 4 * len(columns)), ylim=(-tall, 0.5))
        axes.axis("off")
        for i, (heading, steps) in enumerate(boxes.items()):
            draw_column(axes, 4 * i + 0.1, heading, steps, PALETTE[i])


def draw_column(axes: Any, left: float, heading: str, steps: list[tuple[str, list[str]]],
                colour: str) -> None:
    """Draw one list below its heading."""
    axes.text(left, 0.2, heading, fontsize=13, weight="bold", color=colour)
    top = 0.0
    for i, (where, words) in enumerate(steps):
        height = LINE * (1 + len(words)) + 0.16
        if i:
            axes.annotate("", (left + 1.9, top), (left + 1.9, top + GAP),
                          arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0})
        axes.add_patch(Rectangle((left, top - height), 3.8, height, facecolor="white", edgecolor=colour,
                                 linewidth=1.2))
        axes.text(left + 0.12, top - 0.2, where, fontsize=9, weight="bold", family="monospace", color="black")
        for row, line in enumerate(words, start=1):
            axes.text(left + 0.12, top - 0.2 - LINE * row, line, fontsize=9, color="black")
        top -= height + GAP


def main(argv: list[str]) -> None:
    """Draw what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0],
                                     epilog="example: python bench/architecture_figure.py")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "img" / "architecture.png")
    arguments = parser.parse_args(argv)
    draw((ROOT / "docs" / "architecture.md").read_text(), arguments.output)


if __name__ == "__main__":
    main(sys.argv[1:])
