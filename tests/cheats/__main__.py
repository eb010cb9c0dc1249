"""Tries all cheats and writes the table of who catches them into docs/rules.md: python -m tests.cheats"""
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cheats.arena import Arena, Outcome
from tests.cheats.edits import EDITS
from tests.cheats.submissions import CHEATS
from tests.tiny import ROOT

ALL = CHEATS | EDITS
BEYOND = (
    "Nothing in a log shows these, so none is tried: times that the owner of a machine makes up without a",
    "slip (a race elsewhere does), free work below 2 s and a tenth of the charged time, look-ahead at so few",
    "places that the judge's cuts miss them (`--cuts`), validation text known by heart (a holdout does).")
PAGE, BEGIN, END = ROOT / "docs" / "rules.md", "<!-- cheats begin -->\n", "<!-- cheats end -->"


def outcomes(folder: Path) -> Iterator[tuple[str, Outcome]]:
    """Try all cheats, two at a time; yield name and what became of each."""
    arena = Arena(folder)
    with ThreadPoolExecutor(2) as pool:
        yield from zip(ALL, pool.map(lambda name: arena.outcome(name, ALL[name]), ALL))


def table(found: dict[str, Outcome]) -> str:
    """Return the table of classes and catchers, and what escapes."""
    rows = ["| class | what it does | caught by | word |", "|---|---|---|---|"]
    for name, cheat in ALL.items():
        by = cheat.caught if found[name].caught else f"not by {cheat.caught}"
        rows.append(f"| {cheat.of} | {cheat.what} | {by} | {found[name].word} |")
    escaped = [ALL[name].what for name, outcome in found.items() if outcome.escaped]
    caught = sum(outcome.caught for outcome in found.values())
    return "\n".join([*rows, "", f"{caught} of {len(ALL)} are caught where they should be. What escapes: "
                                 f"{'; '.join(escaped) or 'none of these'}.", *BEYOND, ""])


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
