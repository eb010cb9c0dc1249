"""What ./run.sh starts: settle track, processes and data, say what it will cost, launch the ranks of a host.

Flags of its own: --script FILE, --nproc_per_node N, --nnodes N, --rdzv_endpoint HOST:PORT, --rdzv_id ID;
all others go to the run.
"""
import importlib.util
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from harness.front.cores import physical_cores
from harness.plan import Options, choose_track, make_plan, parse_flags, world_sizes
from harness.runlog import ROOT, read_source
from harness.shards import ShardError

# imported above is only what every accepted harness has: `rerun` starts them all with this file
OWN_FLAGS = {"script": str(ROOT / "train_gpt2.py"), "nproc_per_node": None, "nnodes": "1",
             "rdzv_endpoint": None, "rdzv_id": None}


def main() -> int:
    """Run the command line; return the exit code: 2 where the input cannot be run, else that of the run."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage())
        return 0
    try:
        return launch(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return 2


def usage() -> str:
    """Return the help text, launch options and hyperparameters included."""
    options = ", ".join(f"--{name}" for name in Options.__dataclass_fields__)
    return (f"usage: ./run.sh [--seeds auto|N] [--name value ...]\n\n{__doc__.strip()}\n\n"
            f"Launch options, which leave the training as it is: {options}; --python FILE for run.sh.\n"
            f"Every field of the submission's Hyperparameters is a flag too; an override is logged, and such "
            f"a run is no record.\n\nexample: ./run.sh --seed 1")


def launch(argv: list[str]) -> int:
    """Settle what is open, get the data, start the ranks; return the exit code."""
    flags = parse_flags(argv)
    own = {name: flags.pop(name, default) for name, default in OWN_FLAGS.items()}
    script = Path(own["script"])
    if not script.is_file():
        raise ValueError(f"--script {script}: no such file")
    read_source(script, script=True)
    recipes = load_recipes(script)
    rest = [f"--{name}={value}" for name, value in flags.items()]
    import torch  # --help and what is refused above do without
    cuda = torch.cuda.is_available()
    nodes = number("nnodes", own["nnodes"])
    if nodes > 1 and not (own["rdzv_endpoint"] and own["rdzv_id"]):
        raise ValueError(f"--nnodes {nodes} needs --rdzv_endpoint HOST:PORT and --rdzv_id ID, on every node")
    ranks = own["nproc_per_node"] and number("nproc_per_node", own["nproc_per_node"])
    plan = plan_with_data(recipes, rest, ranks and ranks * nodes, cuda)
    places = torch.cuda.device_count() if plan.device == "cuda" else min(8, physical_cores())
    if ranks is None:
        ranks = choose_ranks(plan, places, nodes)
    elif plan.device == "cuda" and ranks > places:
        raise ValueError(f"--nproc_per_node {ranks}: this host has {places} GPUs")
    print(f"track {plan.track.name}: {plan.tokens / 1e6:.1f} M tokens in {plan.hp.num_iterations} steps, to "
          f"{plan.track.target} nats; {plan.track.cost}")
    where = "--standalone" if nodes == 1 else (f"--nnodes={nodes} --rdzv_backend=c10d --rdzv_endpoint="
                                               f"{own['rdzv_endpoint']} --rdzv_id={own['rdzv_id']}")
    command = f"python -m torch.distributed.run {where} --nproc_per_node={ranks}"
    print(f"+ {command} {shlex.join([os.path.relpath(script), *rest])}", flush=True)
    return start([str(script), *rest], ranks, nodes, own["rdzv_endpoint"], own["rdzv_id"])


def choose_ranks(plan: Any, places: int, nodes: int) -> int:
    """Return the ranks of this host: as many as it has places for, and as a step divides over."""
    legal = [n for n in world_sizes(plan.hp, plan.track, plan.rows) if n <= places * nodes and n % nodes == 0]
    if not legal:
        raise ValueError(f"a step of {plan.hp.batch_tokens} tokens divides over no ranks on {nodes} nodes")
    if legal[-1] < places * nodes:
        print(f"{legal[-1] // nodes} ranks for {places} GPUs or cores: a step does not divide over more")
    return legal[-1] // nodes


def number(name: str, text: str) -> int:
    """Return a flag's text as a positive whole number."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--{name} {text}: expected a whole number of at least 1")
    return int(text)


def load_recipes(script: Path) -> dict[str, Any]:
    """Return RECIPES of a submission; importing one does nothing else."""
    spec = importlib.util.spec_from_file_location("submission", script)
    module = sys.modules["submission"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.RECIPES
    except Exception as error:  # whatever a stranger's script raises, say it in one line
        raise ValueError(f"--script {script.name}: {type(error).__name__}: {error}") from error


def plan_with_data(recipes: dict[str, Any], argv: list[str], world_size: int | None, cuda: bool) -> Any:
    """Return the run's plan; where shards are missing, run the track's fetch command first."""
    try:
        return make_plan(recipes, argv, world_size, cuda)
    except ShardError as error:
        track, _ = choose_track(argv, cuda)
        if "data" in parse_flags(argv):
            raise  # shards of the user's own
        words = track.fetch.split()
        free = shutil.disk_usage(ROOT).free / 1e9
        print(f"{error}\n{track.download}; {free:.0f} GB of disk are free here\n+ {track.fetch}", flush=True)
        words[0] = sys.executable if words[0] == "python" else words[0]
        if subprocess.run(words, cwd=ROOT).returncode:
            raise ValueError(f"the data of track {track.name} is not here; fetch it later with "
                             f"`{track.fetch}`, or train now on text that the repository carries: "
                             f"./run.sh --track sample") from None
        return make_plan(recipes, argv, world_size, cuda)


def start(command: list[str], ranks: int, nodes: int, endpoint: str | None, run_id: str | None) -> int:
    """Run `python command...` as ranks on this host, as torchrun does; return the exit code they agree on.

    A failing run shows its own words and nothing of the agent's: Endings makes all ranks leave with one code.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    for name in ["torch.distributed.elastic", *logging.root.manager.loggerDict]:
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    ours = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    taken = [s.name for s in ours if signal.getsignal(s) is not signal.SIG_IGN]  # nohup: one is ignored
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # a submission may lie anywhere; the harness that referees it is this one
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=ranks, run_id=run_id or uuid.uuid4().hex,
        max_restarts=0, rdzv_backend="c10d", rdzv_endpoint=endpoint or "localhost:0",
        signals_to_handle=",".join(taken),
        local_addr="127.0.0.1" if nodes == 1 else None)  # no name of this host to look up
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        codes = [failure.exitcode for _, failure in sorted(error.failures.items())]
        own = [code for code in codes if code > 0]  # negative: killed by that signal
        return own[0] if own else 128 - codes[0]
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
