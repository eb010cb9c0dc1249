"""Draw img/muon.png and img/muon.svg: what Muon's Newton-Schulz iteration does to singular values.

The curves are computed by lab.optimizers.muon.newton_schulz itself. Example: python bench/muon_figure.py
"""
import argparse
import sys
from pathlib import Path

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # run as a file, python puts bench/ on the path, not the repository
    sys.path.insert(0, str(ROOT))
from lab.optimizers.muon import newton_schulz  # noqa: E402

BAND = (0.7, 1.2)
# of Okabe and Ito's palette, told apart by colour-blind eyes; https://jfly.uni-koeln.de/color
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2")
GREY = "#666666"


def iterated(singular_values: Tensor, steps: int) -> Tensor:
    """Return where some steps send singular values in [0, 1], float64.

    Each is put on the diagonal of a 2 x 2 matrix whose other entry makes the Frobenius norm 1, by which the
    iteration divides first.
    """
    matrices = torch.diag_embed(torch.stack([singular_values, (1 - singular_values**2).sqrt()], dim=-1))
    return newton_schulz(matrices, steps)[:, 0, 0]


def draw(folder: Path) -> list[Path]:
    """Write the figure as PNG and SVG, the same bytes each time; return the files."""
    style = {"svg.hashsalt": "muon", "mathtext.fontset": "cm", "axes.spines.top": False,
             "axes.spines.right": False, "font.size": 11}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 6.6), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        FigureCanvasAgg(figure)
        panels = figure.subplot_mosaic([["text", "linear"], ["text", "log"]], width_ratios=(1, 1.5))
        write_formulas(panels["text"])
        for scale, axes in (("linear", panels["linear"]), ("log", panels["log"])):
            x = torch.linspace(0, 1, 4001) if scale == "linear" else torch.logspace(-4, 0, 4001)
            draw_curves(axes, x.double().clamp(max=1), scale)
        panels["linear"].legend(loc="lower right", ncols=3, frameon=False, fontsize=10)
        files = [folder / "muon.png", folder / "muon.svg"]
        for file, dated in zip(files, ("Software", "Date")):
            figure.savefig(file, dpi=160, metadata={dated: None})
    return files


def draw_curves(axes, x: Tensor, scale: str) -> None:
    """Draw one curve a number of steps over the identity, and the band in which the last one ends."""
    axes.axhspan(*BAND, color=COLOURS[-1], alpha=0.10, linewidth=0)
    axes.plot(x, x, color=GREY, linewidth=1, linestyle="--", label="0 steps")
    for steps, colour in enumerate(COLOURS, start=1):
        last = steps == len(COLOURS)
        y = iterated(x, steps)
        axes.plot(x, y, color=colour, linewidth=2.6 if last else 1.5, zorder=3 if last else 2,
                  label=f"{steps} step{'s' if steps > 1 else ''}")
    axes.set(xscale=scale, xlim=(float(x[0]), 1), ylim=(0, 1.4), yticks=(0, BAND[0], 1, BAND[1]),
             ylabel="singular value after")
    if scale == "log":
        lifted = float(x[int((y >= BAND[0]).nonzero()[0])])
        axes.axvline(lifted, ymax=BAND[0] / 1.4, color=COLOURS[-1], linewidth=1, linestyle=":")
        words = f"from {lifted:.4f} on,\nfive steps end at\nabout {BAND[0]} to {BAND[1]}"
        axes.text(1.15 * float(x[0]), sum(BAND) / 2, words, color=COLOURS[-1], fontsize=10, va="center")
    axes.set_xlabel("singular value before" + (", logarithmic" if scale == "log" else ""))


def write_formulas(axes) -> None:
    """Write the update rule into an empty pair of axes."""
    axes.set_axis_off()
    small = dict(fontsize=12, color=GREY)
    lines = [
        (1.00, "Muon", dict(fontsize=24, weight="bold")),
        (0.92, "momentum, made orthogonal", dict(fontsize=13, color=GREY)),
        (0.82, r"$M \leftarrow \mu M + G$", {}),
        (0.75, r"$X \leftarrow \,(G + \mu M)\;/\;\Vert G + \mu M \Vert_F$", {}),
        (0.66, "five times:", small),
        (0.61, r"$A \leftarrow X X^{\!\top}$", {}),
        (0.54, r"$X \leftarrow aX + (bA + cA^2)\,X$", {}),
        (0.45, "then, for $m$ rows and $n$ columns:", small),
        (0.40, r"$W \leftarrow W - \eta\,\sqrt{\max(1,\,m/n)}\;X$", {}),
        (0.29, r"$a = 3.4445\quad b = -4.7750\quad c = 2.0315$", dict(fontsize=13)),
        (0.20, "A step keeps the singular vectors of $X$ and\nsends each singular value $s$ to "
               "$as + bs^3 + cs^5$:\nsteep at 0, and never far from 1 afterwards.\nSo weak directions of the "
               "gradient\ncount as much as strong ones.", small),
    ]
    for y, words, font in lines:
        axes.text(0, y, words, transform=axes.transAxes, va="top", **{"fontsize": 17, **font})


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what Newton-Schulz does to singular values.",
                                     epilog="example: python bench/muon_figure.py --out img")
    parser.add_argument("--out", type=Path, default=ROOT / "img", help="folder for muon.png and muon.svg")
    for file in draw(parser.parse_args().out):
        print(file)


if __name__ == "__main__":
    main()
