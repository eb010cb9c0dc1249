"""How long from ./run.sh to the first step: a new process each time, files in the page cache."""
import re

from bench.project import TINY, Project
from bench.rounds import Result, Row


def measure(quick: bool) -> Result:
    """Return the seconds to the first lines of a default run cut to two steps."""
    flags = TINY if quick else ["--num_iterations=2", "--val_every=2"]
    with Project() as project:
        project.run(*flags, "--cooldown_iters=2")
        launches = [project.run(*flags, "--cooldown_iters=2") for _ in range(1 if quick else 5)]

    def first(pattern: str) -> list[float]:
        return [next(at for at, line in launch.lines if re.match(pattern, line)) for launch in launches]

    def part(name: str) -> list[float]:
        return [launch.end[name] / 1e9 for launch in launches]

    rows = [Row("./run.sh to the first step line (step:0, validated)", first(r"step:0/"), "s"),
            Row("./run.sh to the line of the first training step", first(r"step:1/"), "s"),
            Row("... of it setting up the run, after `import torch`", part("setup_ns"), "s"),
            Row("... warm-up", part("warmup_ns"), "s"),
            Row("... its two validations", part("validation_ns"), "s")]
    how = ("`./run.sh --python PYTHON` with the default model and two steps: choosing the environment, "
           "checking shards, starting the ranks, warm-up, the first validation over all validation "
           "tokens. A line is timed when it comes out of the pipe; a step's line comes when the next step "
           "is done.")
    return Result(rows, how, {"lines": [launch.lines for launch in launches]})
