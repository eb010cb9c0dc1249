"""Runs that are sound but for one thing, and the one check of verify that each of them fails."""
import types
from collections.abc import Callable
from pathlib import Path

from synthetic import HARNESS, SCRIPT, change, ending, judging, setting, settled

from records.tools.check.claim import load_claim
from records.tools.publish.verify import check_all


def unexplained(run: types.SimpleNamespace) -> None:
    run.end["unexplained_ns"] += 2 * 10**9
    run.end["wall_ns"] += 2 * 10**9
    run.end["clocks"] = {name: ns + 2 * 10**9 for name, ns in run.end["clocks"].items()}


def later(clock: str, ns: int) -> Callable:
    """Return a change that lets one clock alone go on."""
    return lambda run: run.end["clocks"].update({clock: run.end["clocks"][clock] + ns})


def other_time(run: types.SimpleNamespace) -> None:
    run.end["timed_ns"] -= 10**6
    run.end["setup_ns"] += 10**6


def change_untimed(**fields: object) -> Callable:
    """Return a change of what the end line says of the time that is not charged."""
    return lambda run: run.end["untimed"].update(fields)


def sprint(run: types.SimpleNamespace) -> None:
    run.vals[1][2], run.vals[2][2] = 4_000_000_000, 5_000_000_000  # 1 s a step, then a quarter
    settled(run)


def step_after_end(run: types.SimpleNamespace) -> None:
    run.train[-1][2] = 80
    run.vals[-1][2] = run.end["timed_ns"] = run.end["timed_ns"] - 5_000_000
    run.end["unexplained_ns"] += 5_000_000


def beyond(part: str) -> Callable:
    """Return a change that makes a part of the wall time 3 s longer."""
    def apply(run: types.SimpleNamespace) -> None:
        for name in (part, "wall_ns"):
            run.end[name] += 3 * 10**9
        run.end["clocks"] = {name: ns + 3 * 10**9 for name, ns in run.end["clocks"].items()}
    return apply


ONE_RUN = {  # what is changed in one of four runs -> the check that fails, and no other
    "another harness": ("harness", lambda run: run.files.update({"harness/run.py": b"steps = 7\n"})),
    "another script": ("code", setting(script=SCRIPT + b"# better\n")),
    "another file beside it": ("code", setting(files={**HARNESS, "lab.py": b"x = 1\n"})),
    "a flag": ("code", change("overrides", {"lr": 0.2})),
    "other hyperparameters": ("code", change("hyperparameters.batch_tokens", 32)),
    "another target": ("track", change("track_row.target", 5.5)),
    "fewer validation tokens": ("track", change("track_row.val_tokens", 256)),
    "another reduction": ("track", change("reduction", "fast")),
    "another shard": ("data", change("data.train", [{"file": "t_0.bin", "tokens": 999, "sha256": "f" * 64}])),
    "a shard of its own": ("data", change("data.val", {"file": "my.bin", "tokens": 999, "sha256": "f" * 64})),
    "fewer tokens": ("tokens", change("data.tokens", 640)),
    "too large a model": ("parameters", change("parameters.active", 1001)),
    "a failed run": ("status", ending(status="failed", type="RuntimeError", message="boom")),
    "a run that stopped": ("status", ending(status="stopped")),
    "a resumed run": ("complete", change("resumed_from", {"run_id": "x", "step": 4})),
    "asked to stop early": ("complete", change("launch", {"stop_at_step": 8})),
    "a validation left out": ("complete", lambda run: run.vals.pop(1)),
    "time that stands still": ("monotone", lambda run: run.vals.__setitem__(1, [4, 5.2, 90_000_000])),
    "unexplained time, as of work outside of the timed region": ("wall", unexplained),
    "a time that is missing": ("wall", ending(setup_ns=None)),
    "parts that do not add up": ("wall", ending(validation_ns=190_000_000)),
    "another training time": ("wall", other_time),
    "a clock that was set": ("clocks", later("realtime_ns", 10**8)),
    "a suspended host": ("clocks", later("boottime_ns", 10**9)),
    "a step after the end": ("monotone", step_after_end),
    "another world size": ("place", change("world_size", 2)),
    "another processor": ("place", lambda run: run.manifest["sys"].update(cpu="Other CPU")),
    "another torch": ("place", lambda run: run.manifest["sys"].update(torch="2.12.0")),
    "code loaded late": ("nothing_late", setting(late={"late.py": b"x = 1\n"})),
    "settings of inductor": ("settings", lambda run: run.manifest["sys"].update(settings=["a.b = True"])),
    "a tripwire": ("tripwires", setting(more=[("tripwire", {"what": "causality: logits moved"})])),
    "a tripwire's words": ("tripwires", ending(message="environment: a.py:3 reads SEED; a submission")),
    "an end line that says less": ("lines", ending(val_loss=4.0)),
    "a verdict that says otherwise": ("judge", judging(ok=False, moved=0.2)),
    "a verdict of another loss": ("judge", judging(loss=4.8)),
    "a verdict on other weights": ("judge", judging(state_sha256="6" * 64)),
    "a verdict on another log": ("judge", judging(log_sha256="6" * 64)),
    "a negative time": ("untimed", change_untimed(compile_ns=-1)),
}
FOR_A_READER = {  # what is changed in one of four runs -> the check that asks for a reader, and no other
    "a median that cannot be": ("untimed", change_untimed(step_ns=10**9)),
    "a run before it in its process": ("untimed", change("process.runs_before", 1)),
    "work before the run": ("untimed", change("process.cpu_ns", 6 * 10**9)),
    "work in the warm-up": ("untimed", beyond("warmup_ns")),
    "work in validation": ("untimed", beyond("validation_ns")),
    "a module of others": ("imports", change("process.modules", {"x": {"version": "1", "sha256": "8" * 64}})),
    "a model that knows something": ("first_loss", lambda run: run.vals.__setitem__(0, [0, 5.0, 0])),
    "a holdout that costs more": ("judge", judging(holdout={"gap": 0.1, "sds": 5.0, "word": "review"})),
    "no sandbox": ("judge", judging(sandbox="none")),
    "first weights that nobody compared": ("judge", judging(init="could not tell")),
}


def states(logs: list[Path]) -> dict[str, str]:
    """Return what each check says, those that are fine or have nothing to look at left out."""
    found = check_all(load_claim(logs))
    return {name: r.state for name, r in found.items() if r.state in ("fail", "review")}


def worse(run: types.SimpleNamespace) -> None:
    run.vals[-1][1] += 0.5


def near(run: types.SimpleNamespace) -> None:
    """At the target: shown neither to be below it nor to be above it."""
    run.vals[-1][1] = 5.0 + (run.manifest["seed"] - 2.6) / 10
