"""Draw img/muon.png and img/muon.svg: what Muon's Newton-Schulz iteration does to singular values.

The curves are computed by train_gpt2.newton_schulz itself. Example: python bench/muon_figure.py
"""
import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from train_gpt2 import newton_schulz  # noqa: E402

BAND = (0.7, 1.2)
# of Okabe and Ito's palette, told apart by colour-blind eyes, light to dark as the steps go on
COLOURS = ("#F0E442", "#E69F00", "#56B4E9", "#009E73", "#0072B2")


def iterated(singular_values: Tensor, steps: int) -> Tensor:
    """Return where some steps send singular values in [0, 1], float64.

    Each is put on the diagonal of a 2 x 2 matrix whose other entry makes the Frobenius norm 1, by which the
    iteration divides first.
    """
    matrices = torch.diag_embed(torch.stack([singular_values, (1 - singular_values**2).sqrt()], dim=-1))
    return newton_schulz(matrices, steps)[:, 0, 0]


def draw(folder: Path) -> list[Path]:
    """Write the figure as PNG and SVG, the same bytes each time; return the files."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    x = torch.linspace(0, 1, 4001, dtype=torch.float64)
    curves = {steps: iterated(x, steps).numpy() for steps in range(1, 6)}
    style = {"svg.hashsalt": "muon", "mathtext.fontset": "cm", "axes.spines.top": False,
             "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        text, axes = figure.subplots(1, 2, width_ratios=(1, 1.55))
        draw_curves(axes, x.numpy(), curves)
        write_formulas(text)
        files = [folder / "muon.png", folder / "muon.svg"]
        for file, dated in zip(files, ("Software", "Date")):
            figure.savefig(file, dpi=160, metadata={dated: None})
    return files


def draw_curves(axes, x, curves: dict) -> None:
    """Draw one curve a number of steps, the band where the last one ends, and the identity."""
    axes.axhspan(*BAND, color="#0072B2", alpha=0.10, linewidth=0)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    axes.annotate("unchanged", (0.55, 0.55), xytext=(4, -4), textcoords="offset points", color="#777777",
                  fontsize=9, rotation=33, rotation_mode="anchor", va="top")
    for (steps, y), colour in zip(curves.items(), COLOURS):
        last = steps == len(curves)
        axes.plot(x, y, color=colour, linewidth=2.6 if last else 1.6, zorder=3 if last else 2,
                  label=f"{steps} step{'s' if steps > 1 else ''}")
    axes.annotate(f"[{BAND[0]}, {BAND[1]}]", (1, BAND[1]), xytext=(0, 3), textcoords="offset points", ha="right",
                  va="bottom", color="#0072B2", fontsize=10)
    axes.set(xlim=(0, 1), ylim=(0, 1.4), xlabel="singular value of the normalised momentum",
             ylabel="singular value of the update")
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=10)


def write_formulas(axes) -> None:
    """Write the update rule into an empty pair of axes."""
    axes.set_axis_off()
    lines = [
        (1.00, "Muon", dict(fontsize=20, weight="bold")),
        (0.91, "momentum, made orthogonal", dict(fontsize=12, color="#555555")),
        (0.78, r"$M_t = \mu\, M_{t-1} + G_t$", {}),
        (0.68, r"$X_0 = \frac{G_t + \mu\, M_t}{\Vert G_t + \mu\, M_t \Vert_F}$", {}),
        (0.56, r"five times:", dict(fontsize=12, color="#555555")),
        (0.48, r"$A = X X^\top$", {}),
        (0.40, r"$X \leftarrow aX + (bA + cA^2)\,X$", {}),
        (0.28, r"$W_t = W_{t-1} - \eta\,\sqrt{\max(1,\, m/n)}\; X$", {}),
        (0.15, r"$a = 3.4445 \quad b = -4.7750 \quad c = 2.0315$", dict(fontsize=12)),
        (0.05, "Each step sends every singular value\n" r"$s$ to $as + bs^3 + cs^5$ and leaves the" "\n"
               "directions alone: right.", dict(fontsize=11, color="#555555")),
    ]
    for y, words, font in lines:
        axes.text(0, y, words, transform=axes.transAxes, va="top", **{"fontsize": 15, **font})


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what Newton-Schulz does to singular values.",
                                     epilog="example: python bench/muon_figure.py --out img")
    parser.add_argument("--out", type=Path, default=ROOT / "img", help="folder for muon.png and muon.svg")
    for file in draw(parser.parse_args().out):
        print(file)


if __name__ == "__main__":
    main()
