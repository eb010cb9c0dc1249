"""lab ladder: which techniques of submissions/frontier.py pay at laptop size, at equal steps and time?"""
import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.runlog import canonical, sha256
from lab.studies import study
from lab.studies.arms import losses, parse_arm, plan, step_ms, study_command
from lab.sweep.verdict import interval, Interval, plus_minus
from records.tools.show.figure import figure_for, PALETTE

SCRIPT = "submissions/frontier.py"
GATES = "--gate_layers=(0,)"
MUON = "--momentum=(0.85,0.95,70,12)"
ARMS = {  # name -> what changes in recipe `sample`, whose steps these count; its one head has no pair
    "value table in the last layer": "--value_layers=(1,)",
    "65,536 rows of pairs": "--pair_rows=65536",
    "learned factors on the residual stream": "--lambdas=True",
    "smear, with learned factors": "--lambdas=True --smear=True",
    "two tokens ahead, the second fading": "--stage_mtp=(((1,1),(.5,0)),)",
    "Muon": f"--matrices=(0.023,1.5,None) {MUON}",
    "average of the last third": "--tail=(200,0.02,0.65)",
    "XSA in the last layer": f"--xsa_layers=(1,) {GATES}",
    "full softmax": "--stage_candidates=(None,)",
    "embedding and pairs before each block": f"--again=True {GATES}",
    "half of each head turns": "--rotary=0.5",
    "key offset, gates on heads": f"--rotary=0.5 --long_layers=(1,) {GATES}",
    "softcap": "--softcap=(23,5,7.5)",
    "pair signs": "--pair_signs=8192",
    "no pairs": "--pair_rows=0",
    "Adam every second step": "--adam_every=2",
    "Muon, two-speed": f"--matrices=(0.023,1.5,None) {MUON} --two_speed=(100,0.85,0.98,0.4385)",
    "tied for two thirds": "--untie_step=200 --embed_std=0.02 --embed=(0.016,0.0,(0.7,0.95))",
}
TOGETHER = (  # pairs that may fight
    ("65,536 rows of pairs", "value table in the last layer"),
    ("65,536 rows of pairs", "smear, with learned factors"))
BASE = "recipe `sample`"
SHORT = 0.8  # of the steps: the base's second length, for the loss that a step is worth


class Size(NamedTuple):
    """What is run."""

    steps: int
    seeds: int  # to screen
    more: int  # of what gains with each of those
    track: str


FULL, QUICK = Size(300, 2, 4, "sample"), Size(6, 2, 3, "lab")


class Rung(NamedTuple):
    """An arm against the base: differences seed by seed in nats, its step over the base's."""

    name: str
    differences: list[float]
    ratios: list[float]  # a round each
    worth: float  # nats that the base loses in a run shorter by all of its steps, at its end's slope

    @property
    def at_equal_steps(self) -> Interval:
        """The difference in nats."""
        return interval(self.differences)

    @property
    def at_equal_time(self) -> Interval:
        """The same, where the arm takes as many fewer steps as its step takes longer; both noises in it."""
        loss, cost = self.at_equal_steps, interval([self.worth * (1 - 1 / ratio) for ratio in self.ratios])
        middle, half = loss.middle + cost.middle, math.hypot(loss.high - loss.middle, cost.high - cost.middle)
        return Interval(middle, middle - half, middle + half)

    @property
    def word(self) -> str:
        """What the interval at equal time says."""
        found = self.at_equal_time
        return "pays" if found.high < 0 else "costs" if found.low > 0 else "open"


def run(words: Mapping[str, str], seeds: Mapping[str, int], size: Size, folders: study.Folders,
        steps: int | None = None) -> dict[str, list[float]]:
    """Return losses by arm, of seeds 1 to so many."""
    planned = {(name, seed): plan(parse_arm(f"{SCRIPT} {flags}"), seed, size.track, folders.sweeps,
                                  steps=steps or size.steps)
               for name, flags in words.items() for seed in range(1, seeds[name] + 1)}
    found = losses(planned, folders.jobs)
    return {name: [found[name, seed] for seed in range(1, seeds[name] + 1)] for name in words}


def climb(words: Mapping[str, str], size: Size, folders: study.Folders) -> list[Rung]:
    """Screen all arms; give what gained more seeds, also two together; return the rungs, the best first."""
    words = {BASE: "", **words}
    screened = run(words, dict.fromkeys(words, size.seeds), size, folders)
    gained = [name for name in words if all(a < b for a, b in zip(screened[name], screened[BASE]))]
    words |= {f"{a} + {b}": f"{words[a]} {words[b]}" for a, b in TOGETHER if {a, b} <= set(gained)}
    seeds = {name: size.more if name in gained or name == BASE or " + " in name else size.seeds
             for name in words}
    found = run(words, seeds, size, folders)
    short = max(1, round(SHORT * size.steps))
    shorter = run({BASE: ""}, {BASE: size.more}, size, folders, short)[BASE]
    a_step = statistics.fmean(a - b for a, b in zip(shorter, found[BASE])) / max(1, size.steps - short)
    ratios = times(words, size, folders.sweeps)
    rungs = [Rung(name, [a - b for a, b in zip(found[name], found[BASE])], ratios[name], a_step * size.steps)
             for name in words if name != BASE]
    return sorted(rungs, key=lambda rung: rung.at_equal_time.middle)


def times(words: Mapping[str, str], size: Size, folder: Path) -> dict[str, list[float]]:
    """Return each arm's time of a step over the base's, a round each, measured once and kept."""
    arms = [parse_arm(f"{SCRIPT} {flags}") for flags in words.values()]
    what = canonical({"words": words, "steps": size.steps, "script": sha256(arms[0].script.read_bytes())})
    path = folder / f"times_{sha256(what.encode())[:16]}.json"
    if not path.is_file():
        found = step_ms(arms, size.steps)
        base = found[list(words).index(BASE)]
        path.write_text(canonical({name: [a / b for a, b in zip(ms, base, strict=True)]
                                   for name, ms in zip(words, found)}))
    return json.loads(path.read_text())


def page(rungs: list[Rung], words: Mapping[str, str], size: Size, command: str) -> Iterator[str]:
    """Yield the page's lines."""
    yield from (
        "# The ladder", "", f"Written by `{command}`; the figure is img/ladder.png.", "",
        f"Techniques of `{SCRIPT}` at 2 layers of 128, each switched alone against its recipe `sample`, "
        f"{size.steps} steps of 2,048 tokens, through the harness on track `{size.track}`, one rank; what "
        f"counts steps is scaled from 300. {size.seeds} seeds, {size.more} of what gains with each of those. "
        "Differences in nats, seed by seed (below 0: better than the base), intervals 95 %, of seeds, at "
        "equal time of the rounds too: **of two seeds they are wide**, 12.7 standard errors each way. Step: "
        "processor time over the "
        "base's, one thread, the median of 5 rounds in turns. Equal time: the difference, and what the "
        f"base's last steps are worth ({rungs[0].worth / size.steps:.4f} nats each, from runs of {SHORT:g} "
        "of the steps) times those that a slower step costs.", "",
        "Rates are not tuned again for an arm: what loses here loses at the base's rates. The seeds that "
        f"screened count in what they let through, and of {len(rungs)} intervals about "
        f"{0.05 * len(rungs):.1f} miss by chance. Equal time takes the loss for a straight line of the "
        "steps, too kind to arms far slower or faster.", "")
    yield from study.table(
        ("technique", "n", "at equal steps", "step", "at equal time", ""),
        [[rung.name, len(rung.differences), plus_minus(rung.at_equal_steps),
          f"{statistics.median(rung.ratios):.2f}", plus_minus(rung.at_equal_time), rung.word]
         for rung in rungs])
    yield from ("", "## What is switched", "")
    yield from study.table(("technique", "flags"), [[name, f"`{flags}`"] for name, flags in words.items()])


def figure(rungs: list[Rung], output: Path) -> None:
    """Draw each technique's difference at equal steps and at equal time."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(8, 1 + 0.22 * len(rungs))
        axes = canvas.subplots()
        for y, rung in enumerate(reversed(rungs)):
            axes.plot(rung.differences, [y] * len(rung.differences), "o", ms=3, color=PALETTE[0], alpha=0.6,
                      label="equal steps, a seed" if not y else None)
            axes.plot(rung.at_equal_time.middle, y, "|", ms=9, mew=2, color=PALETTE[1],
                      label="equal time, mean" if not y else None)
        axes.axvline(0, color="black", lw=0.6)
        axes.set_xscale("symlog", linthresh=0.02)
        axes.set_xticks([-0.1, -0.02, 0, 0.02, 0.1, 1], ["-0.1", "-0.02", "0", "0.02", "0.1", "1"])
        axes.set_yticks(range(len(rungs)), [rung.name for rung in reversed(rungs)], fontsize=7)
        axes.set(xlabel="val loss less the base's, nats")
        canvas.legend(loc="outside upper right", ncols=2, fontsize=7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab ladder."""
    study.add_study_arguments(parser, "ladder")
    parser.add_argument("techniques", nargs="*", metavar="NAME", help="as the page names them; default: all")
    parser.add_argument("--steps", type=int, metavar="N", help="of each run; default: 300")
    parser.add_argument("--seeds", type=int, metavar="N", help="to screen; default: 2")
    parser.add_argument("--more", type=int, metavar="N", help="seeds of what gains; default: 4")
    parser.add_argument("--track", help="default: sample; lab validates on an eighth of its tokens")


def main(arguments: argparse.Namespace) -> int:
    """Run the ladder, or what is left of it; write figure and page."""
    asked = {name: value for name in Size._fields if (value := getattr(arguments, name)) is not None}
    size = (QUICK if arguments.quick else FULL)._replace(**asked)
    if min(size[:3]) < 1 or size.more < size.seeds:
        raise ValueError("expected --steps and --seeds of at least 1, and --more of at least --seeds")
    for name in set(arguments.techniques) - ARMS.keys():
        raise ValueError(f"{name!r}: no such technique; there are {', '.join(map(repr, ARMS))}")
    folders = study.folders_of(arguments, "ladder")
    names = arguments.techniques or list(ARMS)[:3 if arguments.quick else None]
    words = {name: ARMS[name] for name in names}
    rungs = climb(words, size, folders)
    figure(rungs, folders.images / "ladder.png")
    command = study_command("ladder", arguments.techniques, asked)
    study.write_page(folders.pages / "ladder.md", page(rungs, words, size, command))
    return 0
