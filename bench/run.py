"""Run the benchmarks and write docs/performance.md from all results.

Each one compares what it measures in alternating rounds of one run. Results stay in bench/results/*.json, so
single ones can be repeated and the page written anew. Leave the machine alone meanwhile: about 25 minutes.
"""
import argparse
import importlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # run as a file, python puts bench/ on the path, not the repository
    sys.path.insert(0, str(ROOT))

from bench.page import page  # noqa: E402
from bench.rounds import Result, conditions, foreign_load  # noqa: E402
from bench.submission import SubmissionError  # noqa: E402

NAMES = ["gemm_share", "two_ranks", "harness_cost", "stream_rate", "muon_sharded", "cold_start",
         "reading_logs", "record_step", "time_to_loss", "muon_claims", "learned_cost"]


def finite(value):
    """Return the value with numbers that JSON lacks as text."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def run_one(name: str, measure: Callable[[bool], Result], quick: bool) -> dict:
    """Run one benchmark; return what its result file holds. Exits where the submission does not fit it."""
    print(f"=== {name}", file=sys.stderr, flush=True)
    before, begin = foreign_load(), time.monotonic()
    facts = conditions()
    try:
        result = measure(quick)
    except SubmissionError as error:
        sys.exit(f"{name}: {error}")
    seconds, after = time.monotonic() - begin, foreign_load()
    for row in result.rows:
        print("  ".join(filter(None, (row.name, row.measured(), row.goal and f"goal {row.goal}",
                                      row.verdict()))), flush=True)
    rows = [{**row._asdict(), "measured": row.measured(), "verdict": row.verdict()} for row in result.rows]
    return finite({"name": name, "quick": quick, "conditions": facts, "seconds": round(seconds, 1),
                   "foreign_load": [before, after], "rows": rows, "how": result.how, "raw": result.raw})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter,
                                     epilog="example: python bench/run.py --only stream_rate")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME",
                        help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes: shows that they run, measures nothing")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write; default docs/performance.md, with --quick none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_results_") as aside:
        results = Path(aside) if options.quick else ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        for name in options.only:
            measure = importlib.import_module(f"bench.{name}").measure
            text = json.dumps(run_one(name, measure, options.quick), indent=1)
            (results / f"{name}.json").write_text(text + "\n")
        files = [results / f"{name}.json" for name in NAMES]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
    output = options.output or (None if options.quick else ROOT / "docs" / "performance.md")
    text = page(found, "python bench/run.py")
    if output:
        output.write_text(text)
        print(f"wrote {output}", file=sys.stderr)
    else:
        print(text)


if __name__ == "__main__":
    main()
