"""What ./run.sh starts: settle track, processes and data, launch the ranks of a host; say each step of it."""
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from harness.front.cores import physical_cores
from harness.front.recipes import finish_reading, start_reading
from harness.front.watch import Watch, say
from harness.plan import choose_track, make_plan, parse_flags, world_sizes
from harness.runlog import ROOT, read_source
from harness.shards import ShardError

# imported above is only what every accepted harness has: `rerun` starts them all with this file


class Place(NamedTuple):
    """Which script runs, and where: flags of the launcher's own. --help shows the comments."""

    script: str = "train_gpt2.py"  # the submission, a file of any name and place
    nproc_per_node: int | None = None  # ranks of this host; default: as many as it has GPUs or cores for
    nnodes: int = 1  # hosts; start the command on each
    rdzv_endpoint: str | None = None  # HOST:PORT of one of several hosts, the same on all
    rdzv_id: str | None = None  # any word, the same on several hosts
    judge: str | None = None  # true: judge the run by its log and weights when it has ended


def main() -> int:
    """Run the command line; return the exit code: 2 where the input cannot be run, else that of the run."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return launch(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        number = signal.Signals(*error.args or (signal.SIGINT,))
        print(f"run.sh: interrupted by {number.name} while no rank ran", file=sys.stderr)
        return 128 + number


def interrupt(number: int, frame: Any) -> None:
    """Make a signal end this process as Ctrl-C does: with a word, and nothing left."""
    raise KeyboardInterrupt(number)


def launch(argv: list[str]) -> int:
    """Settle what is open, get the data, start the ranks; return the exit code."""
    flags = parse_flags(argv)
    own = {name: flags.pop(name) for name in Place._fields if name in flags}
    own |= {name: number(name, own[name]) for name in ("nproc_per_node", "nnodes") if name in own}
    place = Place(**{"script": str(ROOT / "train_gpt2.py")} | own)
    script, ranks, nodes = Path(place.script), place.nproc_per_node, place.nnodes
    rest = [f"--{name}={value}" for name, value in flags.items()]
    if not script.is_file():
        raise ValueError(f"--script {script}: no such file")
    if place.judge not in (None, "true", "false"):
        raise ValueError(f"--judge {place.judge}: expected true or false")
    if place.judge == "true" and flags.get("weights", "").lower() == "false":
        raise ValueError("--judge true needs the weights; leave --weights false out")
    if nodes > 1 and not (place.rdzv_endpoint and place.rdzv_id):
        raise ValueError(f"--nnodes {nodes} needs --rdzv_endpoint HOST:PORT and --rdzv_id ID, on every node")
    read_source(script, script=True)
    print("loading torch", flush=True)
    process = start_reading(script)
    try:
        import torch  # what is refused above does without
        recipes, contract = finish_reading(process, script.name)
    finally:
        process.kill()
    cuda = torch.cuda.is_available()
    if not {"track", "device"} & flags.keys():
        check_gpus(torch.cuda.device_count() if cuda else 0, torch.version)
    print("checking the data", flush=True)
    plan = plan_with_data(recipes, rest, ranks and ranks * nodes, cuda)
    places = torch.cuda.device_count() if plan.device == "cuda" else min(8, physical_cores())
    if ranks is None:
        ranks = choose_ranks(plan, places, nodes)
    elif plan.device == "cuda" and ranks > places:
        raise ValueError(f"--nproc_per_node {ranks}: this host has {places} GPUs")
    goal = f", to {plan.track.target} nats" * (plan.track.target is not None)
    print(f"track {plan.track.name}: {plan.tokens / 1e6:.1f} M tokens in {plan.hp.num_iterations} steps"
          f"{goal}; a full run takes {plan.track.cost}")
    where = ["--standalone"] if nodes == 1 else [f"--nnodes={nodes}", "--rdzv_backend=c10d", *(
        f"--{name}={getattr(place, name)}" for name in ("rdzv_endpoint", "rdzv_id"))]
    tell(script, [*where, f"--nproc_per_node={ranks}", os.path.relpath(script), *rest], argv)
    print(f"starting {ranks} rank{'s' * (ranks > 1)}; each loads torch", flush=True)
    with Watch(getattr(plan.options, "timeout", 600)) as watch:  # older harnesses have no such option
        code = start([str(script), *rest], ranks, nodes, place.rdzv_endpoint, place.rdzv_id)
    for log in watch.ended if not code else ():
        hint = not watch.report and plan.device == "cpu"  # limits are measured there
        judge_run(log, place.judge == "true", contract, flags.get("data"), hint)
    return code


def judge_run(log: Path, now: bool, contract: bool, data: str | None, hint: bool) -> None:
    """Judge a run, or say with which command that is done where it has left weights; the ranks are gone."""
    if now and not contract:
        print("not judged: the script has no GPT(hp) (docs/rules.md)")
    elif now:
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the judge's, which says what came of it
        shards = [f"--data={Path(data).expanduser()}"] if data else []
        subprocess.run([sys.executable, "-P", "-m", "harness.front.judge", str(log), *shards])
    elif contract and hint and log.with_suffix(".safetensors").exists():
        print(f"to have it judged: python3 -m records judge {shlex.quote(log.stem)}")


def tell(script: Path, words: list[str], argv: list[str]) -> None:
    """Show what is started as it can be typed here, and let the ranks know the command line.

    Not for a copy in a temporary folder, from which nobody would start it again.
    """
    folder = Path(tempfile.gettempdir()).resolve()
    if Path.cwd().is_relative_to(folder) or not script.resolve().is_relative_to(folder):
        python = ["env", f"PYTHONPATH={os.path.relpath(ROOT)}", sys.executable]
        print("+", shlex.join([*python, "-m", "torch.distributed.run", *words]))
        os.environ["SPEEDRUN_COMMAND"] = shlex.join([str(ROOT / "run.sh"), *argv])


def check_gpus(seen: int, torch: Any) -> None:
    """Raise ValueError where the driver lists more GPUs than torch sees: another run would be meant."""
    told = "CUDA_VISIBLE_DEVICES" not in os.environ and shutil.which("nvidia-smi")
    driver = "".join(subprocess.run([told, *words], capture_output=True, text=True).stdout
                     for words in ([["-L"], []] if told else []))
    if (listed := len(re.findall(r"^GPU \d+:", driver, re.M))) <= seen:
        return
    cuda, python = re.search(r"CUDA Version: (\d+)", driver), shlex.quote(sys.executable)
    serves = int(cuda[1]) if cuda else 0
    if torch.cuda and serves >= int(torch.cuda.split(".")[0]):
        cure = f"let torch say why: {python} -c 'import torch; torch.cuda.init()'"
    elif 0 < serves < 12:
        cure = "no wheel of torch 2.11 or later serves it: update the driver to R525 or later"
    else:
        wheel = "" if serves >= 13 else " --index-url https://download.pytorch.org/whl/cu126"
        cure = f"install another build: {python} -m pip install --force-reinstall 'torch>=2.11'{wheel}"
    raise ValueError(f"the driver lists {listed} GPUs, torch {torch.__version__} sees {seen}; {cure} "
                     f"(see docs/machines.md), or name what to train on: --track sample --device cpu")


def choose_ranks(plan: Any, places: int, nodes: int) -> int:
    """Return the ranks of this host: as many as it has places for, and as a step divides over."""
    legal = [n for n in world_sizes(plan.hp, plan.track, plan.rows, places * nodes) if n % nodes == 0]
    if not legal:
        raise ValueError(f"a step of {plan.hp.batch_tokens} tokens divides over no ranks on {nodes} nodes; "
                         f"take fewer --nnodes, or a smaller --device_batch_size")
    if legal[-1] < places * nodes:
        print(f"{legal[-1] // nodes} ranks for {places} GPUs or cores: a step does not divide over more")
    return legal[-1] // nodes


def number(name: str, text: str) -> int:
    """Return a flag's text as a positive whole number."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--{name} {text}: expected a whole number of at least 1")
    return int(text)


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
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    taken = [s.name for s, handler in handlers.items() if handler is not signal.SIG_IGN]  # nohup: ignored
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # the others show C++ stacks when a peer is gone
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
        failures = sorted(error.failures.items())
        # SIGTERM: how the agent ends the others
        failures = [f for f in failures if f[1].exitcode != -signal.SIGTERM] or failures
        for rank, failure in failures:
            if failure.exitcode < 0:
                say(f"rank {rank} (pid {failure.pid}) was killed: {signal.Signals(-failure.exitcode).name}")
        codes = [failure.exitcode for _, failure in failures]
        return next((code for code in codes if code > 0), 128 - codes[0])  # negative: killed by that signal
    except SignalException as error:
        say(f"run.sh: ended by {signal.Signals(error.sigval).name}")
        return 128 + error.sigval
    finally:
        for s, handler in handlers.items():  # the agent leaves its own
            signal.signal(s, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
