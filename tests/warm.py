"""A process that has loaded torch and forks itself for each run, so that no test waits for the imports.

It reads one request a line of stdin, and answers with an exit code once all ranks have ended. Nothing of the
project is loaded before a fork: a run imports the harness of its own folder.
"""
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run(script: str, flags: list[str]) -> int:
    """Run a script as a program of its own, and return its exit code."""
    sys.argv = [script, *flags]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        if not isinstance(left.code, str):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def rank(cases: list, folder: str, answers: str, environ: dict[str, str]) -> int:
    """Run scripts of a folder one after the other, and return the last one's exit code.

    What each said and did comes into the folder of answers, its code and its log from the first rank.
    """
    os.environ.update(environ)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[0], runs = folder, Path("records/runs")
    for number, (script, flags) in enumerate(cases):
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            path = f"{answers}/{number}.{name}"
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        before = set(runs.glob("*.txt"))
        code = run(script, flags)
        sys.stdout.flush()
        new = [str(path.resolve()) for path in set(runs.glob("*.txt")) - before]
        if environ.get("RANK", "0") == "0":
            facts = {"code": code, "log": new[0] if new else None}
            Path(f"{answers}/{number}.json").write_text(json.dumps(facts))
    return code


def fork(ranks: int, environ: dict[str, str], answers: str, **work: Any) -> int:
    """Do the work as some ranks of one group, as torchrun starts them; return the code that it would."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # outlives a killed rank
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(ranks),
             "TORCHELASTIC_USE_AGENT_STORE": "True"}
    children = []
    for number in range(ranks):
        if not (child := os.fork()):
            code = 70
            try:
                mine = {**group, "RANK": str(number), "LOCAL_RANK": str(number)} if ranks > 1 else {}
                code = rank(answers=answers, environ=environ | mine, **work)
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code > 0), 128 - codes[0] if any(codes) else 0)


if __name__ == "__main__":
    torch.optim.Adam([torch.zeros(1)])  # the first optimizer loads half of torch
    for line in sys.stdin:
        print(fork(**json.loads(line)), flush=True)
