"""What the harness costs a step: a run whose model is one number, against the default run's step."""
import ast
import re

from bench.project import Project
from bench.ranks import training_ranks
from bench.rounds import Result, Row


def measure(quick: bool) -> Result:
    """Return the harness's time a step as a share of the default step, two ranks each."""
    steps = 200 if quick else 1000
    flags = ["--nproc_per_node=2", f"--num_iterations={steps}", f"--val_every={steps}"]
    flags += ["--block=40"] if quick else []
    with Project() as project:
        launch = project.run(f"--script={project.folder / 'bench' / 'empty_steps.py'}", *flags)
    pattern = r"a step: (\[.*\]) with the harness, (\[.*\]) w"
    [found] = [match for _, line in launch.lines if (match := re.search(pattern, line))]
    (with_harness, with_cpu), (plain, plain_cpu) = (zip(*ast.literal_eval(found[i])) for i in (1, 2))
    cost = [a - b for a, b in zip(with_harness, plain)]
    cpu = [a - b for a, b in zip(with_cpu, plain_cpu)]
    with training_ranks(2, {"num_iterations": 1000}) as ranks:
        ranks.ask("steps", 1)
        k = 1 if quick else 10
        step = [max(answer["ns"] for answer in ranks.ask("steps", k)) / k / 1e3 for _ in cost]
    rows = [Row("harness, share of the default step", [100 * c / s for c, s in zip(cost, step)], "%",
                "<= 0.1"),
            Row("... microseconds a step, beyond a plain loop", cost, "us"),
            Row("... of CPU time: what no other process on the machine adds to", cpu, "us"),
            Row("... the empty step with the harness", list(with_harness), "us"),
            Row("... the empty step in a plain loop", list(plain), "us"),
            Row("the default step", [s / 1e3 for s in step], "ms")]
    how = ("`bench/empty_steps.py` is a submission whose model is one number: its steps take tokens, "
           "split and reduce, read the clock and write their log lines like any other. Blocks of such "
           "steps alternate, in one run, with blocks of the same backward passes, one copy of a batch and "
           "one all_reduce in a plain loop. The difference is the harness, communication of the exact "
           "reduction included (its two collectives against one); the time that sums over large gradients "
           "take belongs to the step. The default step was measured directly afterwards.")
    return Result(rows, how, {"with_us": with_harness, "plain_us": plain, "step_us": step,
                              "with_cpu_us": with_cpu, "plain_cpu_us": plain_cpu})
