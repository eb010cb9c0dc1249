"""The budgeted search's figure and page."""
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.recipe import costs
from lab.studies import study
from lab.recipe.load import make_recipe
from lab.sweep.report import report, text
from lab.sweep.results import Group, Run, load_results, perplexity
from lab.studies.search import Size, finals, shapes
from lab.studies.study import Place
from records.tools.show.figure import GREY, PALETTE, figure_for


def figure(tiny: Run, runs: Sequence[Run], best: Run, output: Path) -> None:
    """Draw GPT-tiny's training loss against step, and everything's validation loss against FLOPs."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(10, 4.2)
        left, right = canvas.subplots(1, 2)
        steps, losses = zip(*tiny.train)
        left.plot(steps, losses, lw=0.6, color=PALETTE[0], label="training loss")
        left.plot([v.step for v in tiny.val], [v.val_loss for v in tiny.val], "o-", ms=3, color=PALETTE[1],
                  label="validation loss")
        left.set(xlabel="step", ylabel="loss, nats", title="GPT-tiny")
        left.legend()
        for run, name, color in ((tiny, "GPT-tiny", PALETTE[0]), (best, "the search's best", PALETTE[2])):
            recipe = make_recipe(run.recipe)
            points = [(v.tokens * costs.flops_per_token(recipe), v.val_loss) for v in run.val if v.tokens]
            right.plot(*zip(*points), "o-", ms=3, color=color, label=name)
        ended = [run for run in runs if run.status == "ok"]
        right.plot([run.flops for run in ended], [run.val_loss for run in ended], "x", color=GREY,
                   label=f"search, {len(ended)} runs")
        right.set(xscale="log", xlabel="training FLOPs", ylabel="val loss, nats", title="what a FLOP buys")
        right.xaxis.set_major_formatter("{x:.0e}")
        right.legend(fontsize=8)


def page(where: Place, size: Size, tiny: Run, runs: Sequence[Run], best: Sequence[Group], last: Run
         ) -> Iterator[str]:
    """Yield the page's lines."""
    total, fit, counts = shapes()
    yield from ("# Search under a budget of FLOPs", "",
                "Written by `python -m lab search`; the figure is img/search.png. Losses in nats a token of "
                "the embedded sample's 4,096 ids: no perplexity here compares with one of GPT-2's ids.", "",
                "## GPT-tiny", "",
                f"{tiny.parameters:,} parameters, {tiny.tokens:,} tokens, {tiny.flops:.3g} FLOPs: val loss "
                f"{tiny.val_loss:.4f}, perplexity {perplexity(tiny.val_loss):.1f}.", "",
                "## The homework's final recipes, in closed form", "",
                *study.table(("recipe", "parameters", "MB", "steps", "tokens", "FLOPs"), finals()), "",
                "## What the homework's space could test", "",
                f"Of {total} shapes {fit} have weights of 50 to 98 MB:", "")
    for axis, rows in counts.items():
        words = ", ".join(f"{row.value}: {row.admissible} of {row.combinations}" for row in rows)
        only = [row.value for row in rows if row.admissible]
        untested = f"; **not tested**: only {only[0]} is admissible" if len(only) == 1 else ""
        yield f"- {axis}: {words}{untested}"
    yield from ("", f"## {len(runs)} random points at {size.flops:.3g} FLOPs", "", "```",
                *text({**report(load_results(where.sweeps / "search")), "figures": []}), "```", "",
                f"## The best {len(best)}, with {len(size.seeds)} more seeds", "")
    yield from study.table(("point", "n", "mean", "sd"), [
        [", ".join(f"{axis.split('.')[-1]} {value}" for axis, value in found.point.items()), found.n,
         f"{found.mean:.4f}", "-" if found.sd is None else f"{found.sd:.4f}"] for found in best])
    yield from ("", "## The best of them, trained on", "",
                f"{last.flops:.3g} FLOPs, {last.tokens:,} tokens, {last.parameters:,} parameters: val loss "
                f"{last.val_loss:.4f}, perplexity {perplexity(last.val_loss):.1f}; GPT-tiny took "
                f"{tiny.flops:.3g} FLOPs to {perplexity(tiny.val_loss):.1f}.")
