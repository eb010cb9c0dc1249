"""Tries all cheats and writes the table of who catches them into docs/rules.md: python -m tests.cheats"""
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cheats.arena import Arena, Outcome
from tests.cheats.edits import EDITS
from tests.cheats.submissions import CHEATS
from tests.tiny import ROOT

ALL = CHEATS | EDITS
CLASSES = {  # what they do, and what no cheat here tries, since neither log nor weights show it
    "C1": ("looks ahead where the loss counts", "at so few places that the judge's cuts miss them: `--cuts`"),
    "C2": ("rewrites its log", "what a rerun repeats"),
    "C3": ("makes up the loss, or takes validation's text", "text known by heart, until a holdout is scored"),
    "C4": ("looks ahead below the tripwire's tolerance", "as C1"),
    "C5": ("trains where no clock runs", "less than 2 s and a tenth of the charged time"),
    "C6": ("turns the clock", "what a reader of the code overlooks: `race` elsewhere"),
    "C7": ("runs code that the log lacks", "the same"),
    "C8": ("edits logs by hand, chooses seeds", "times made up without a slip: `race` elsewhere")}
ABOVE = (
    "`python -m tests.cheats` makes false claims and counts what sees each: a check of `verify` (`judge` is",
    "a verifier's), the referee itself (`refused`), or only a `rerun`, before which it may be PROVEN.")
PAGE, BEGIN, END = ROOT / "docs" / "rules.md", "<!-- cheats begin -->\n", "<!-- cheats end -->"


def outcomes(folder: Path) -> Iterator[tuple[str, Outcome]]:
    """Try all cheats, two at a time; yield name and what became of each."""
    arena = Arena(folder)
    with ThreadPoolExecutor(2) as pool:
        yield from zip(ALL, pool.map(lambda name: arena.outcome(name, ALL[name]), ALL))


def table(found: dict[str, Outcome]) -> str:
    """Return the table of classes and catchers, and what escapes."""
    rows = [*ABOVE, "", "| class | tried | caught by | what remains |", "|---|---|---|---|"]
    for of, (what, remains) in CLASSES.items():
        caught = [cheat.caught.split(":")[0] for name, cheat in ALL.items()
                  if cheat.of == of and found[name].caught]
        by = ", ".join(f"{check} {n}" for check, n in Counter(caught).most_common())
        tried = sum(cheat.of == of for cheat in ALL.values())
        rows.append(f"| {of} {what} | {tried} | {by} | {remains} |")
    escaped, missed = ("; ".join(ALL[name].what for name in ALL if chosen(found[name])) or "none"
                       for chosen in (lambda o: o.escaped, lambda o: not o.caught))
    return "\n".join([*rows, "", f"Of these {len(ALL)} stand after all that: {escaped}. Not caught where",
                      f"they should be: {missed}.", ""])


def main() -> int:
    """Write the table; return 1 where a cheat's claim stands."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, outcome in outcomes(Path(folder)):
            mark = "ok    " if outcome.caught else "MISSED"
            print(f"{mark} {name}: {outcome.word}: {outcome.said[:300]}", flush=True)
            found[name] = outcome
    page = PAGE.read_text()
    above, below = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{above}{BEGIN}{table(found)}{END}{below}")
    return int(any(outcome.escaped for outcome in found.values()))


if __name__ == "__main__":
    sys.exit(main())
