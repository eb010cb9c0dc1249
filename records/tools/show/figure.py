"""The look of all figures, and a file that holds the same bytes whenever the same is drawn."""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from records.tools.read.values import ReadError, shown

# Okabe and Ito's palette, told apart by colour-blind eyes; https://jfly.uni-koeln.de/color
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"


@contextmanager
def figure_for(output: Path) -> Iterator[Any]:
    """Give a matplotlib figure and write it when the block ends, the same bytes for the same drawing."""
    try:
        import matplotlib
    except ImportError:
        raise ReadError("matplotlib is missing; pip install -r records/requirements.txt") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    style = {"text.parse_math": False, "svg.hashsalt": "records", "axes.spines.top": False,
             "axes.spines.right": False, "legend.frameon": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            dated = "Date" if output.suffix == ".svg" else "Software"
            figure.savefig(output, dpi=150, metadata={dated: None})
        except OSError as error:
            raise ReadError(f"{shown(str(output))}: cannot be written ({error.strerror})") from None


def titles(axes: Any, track: str | None, common: set[str] = frozenset()) -> None:
    """Write the track above a figure, and what all runs were changed by."""
    name = shown(f"track {track}" if track else "track unknown")
    axes.set_title(name, loc="left", fontsize=11, weight="bold")
    if common:
        axes.set_title(shown(" ".join(sorted(common))), loc="right", fontsize=7, color=GREY)
