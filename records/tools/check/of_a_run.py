"""The checks of verify that look at one run at a time; each says what it found, with its evidence."""
import contextlib
import math
import re
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any

from records.tools.check.claim import Claim, code_digest, harness_digest
from records.tools.check.verdict import JUDGES, verdict_on
from records.tools.read.log import File
from records.tools.read.run import Run
from records.tools.read.values import ReadError, json_text, number, shown

# in these a run's track row must be the verifier's; all else in it are words, of any harness
RULES = ("data", "max_active_parameters", "recipe", "reduction", "significance", "target", "train_files",
         "val_bytes", "val_files", "val_piece", "val_tokens", "vocab_size", "vocabulary")
FRONT = "harness/front/"  # the launcher, in the log but outside of both digests: no rank imports it
PARTS = ("timed_ns", "setup_ns", "warmup_ns", "validation_ns", "checkpoint_ns", "finish_ns", "unexplained_ns")
TRIPWIRE = re.compile(r"(causality|environment|harness|tokens|validation|warmup): ")
IMPOSSIBLE = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError)
NOT_SHOWN = "the logs' format does not show it"
SLACK_NS = 50_000_000  # two clocks are not read at one moment; NTP may steer by 200 ppm more
STEERING = re.compile("[\0\r\x1b]")
RUN_ID = re.compile(r"\d{8}T\d{6}Z_[0-9a-f]{8}_[0-9a-f]{6}", re.ASCII)
UNTRAINED = 0.5  # nats below ln(vocabulary) at which a fresh model would have learned something


@dataclass(frozen=True)
class Result:
    """What a check found: ok, fail, review (a reader has to look) or unknown (the logs do not show it)."""

    state: str
    evidence: str
    logs: tuple[str, ...] = field(default=(), compare=False)  # sha256 of those that ask for a reader; (): all
    every: tuple[str, ...] = field(default=(), compare=False)  # found, where evidence has the first


class Wrong(Exception):
    """What a check of one run objects to, and the state that follows."""


def require(holds: Any, what: str, fine: str = "", state: str = "fail") -> str:
    """Raise Wrong, with what is wrong, unless something holds; return the evidence that all is fine."""
    if not holds:
        raise Wrong(what, state)
    return fine


def each_run(check: Callable[[Run, Claim], str], claim: Claim, runs: list[Run] | None = None) -> Result:
    """Return what a check, which returns its evidence, finds of each run of ours, or of those that are given:
    the worst of fail, review, unknown, ok.
    """
    fine: list[str] = []
    wrong: dict[str, dict[str, list[Run]]] = {"fail": {}, "review": {}, "unknown": {}}
    for run in claim.own if runs is None else runs:
        try:
            fine.append(check(run, claim))
        except Wrong as error:
            what, state = error.args
            wrong[state].setdefault(what, []).append(run)
        except IMPOSSIBLE as error:
            what = impossible_value(error) if not run.log or run.log.end else "cut off, it has no end line"
            wrong["fail"].setdefault(what, []).append(run)
    if not fine and not any(wrong.values()):
        return Result("unknown", NOT_SHOWN)
    state = next((state for state, found in wrong.items() if found), "ok")
    worst = wrong.get(state, {})
    found = [f"{first_of([run.name for run in runs], 2)}: {what}" for what, runs in worst.items()]
    unsettled = [*worst.values(), *(wrong["unknown"].values() if state == "review" else [])]
    logs = tuple(run.sha256 for runs in unsettled for run in runs)
    return Result(state, first_of(found or fine), logs)


def impossible_value(error: Exception) -> str:
    """Return in words that a file holds a value where no harness writes one."""
    return str(error) if isinstance(error, ReadError) else (
        f"a value that no harness writes ({shown(f'{type(error).__name__}: {error}', 200)})")


def first_of(texts: list[str], most: int = 3) -> str:
    """Return the first of some texts, each once, fit for one line of a terminal."""
    texts = list(dict.fromkeys(texts))
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return shown("; ".join(texts[:most]), 400) + more


def result_of(wrong: list[str], fine: str, state: str = "fail") -> Result:
    """Return ok with its evidence where nothing is wrong, else a state with the first of what is."""
    return Result(state, first_of(wrong)) if wrong else Result("ok", fine)


def number_of(things: Sized, name: str) -> str:
    """Return how many things there are, in words."""
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def loaded(run: Run) -> dict[str, File]:
    """Return the project files that a run had loaded when it began."""
    late = {event.get("path") for event in run.of_kind("late")}
    return {path: file for path, file in run.log.files.items() if path not in late}


def fields(run: Run, claim: Claim) -> str:
    """Seed, run id and ranks are what a harness writes, and no text of the log steers a terminal."""
    seed, ranks, nodes = run.at("seed"), run.at("world_size"), run.at("nodes")
    require(type(seed) is int and seed >= 0, f"seed {shown(repr(seed))}, expected a whole number from 0")
    require(not RUN_ID.fullmatch(run.path.stem) or run.run_id == run.path.stem,
            f"run_id {shown(run.run_id)}, which is not the file's name")
    batch = run.at("hyperparameters", "batch_tokens")
    fits = type(ranks) is type(nodes) is int and 0 < nodes <= ranks and ranks % nodes == 0
    require(fits and (type(batch) is not int or batch % ranks == 0), f"world_size {shown(repr(ranks))} on "
            f"{shown(repr(nodes))} nodes with batch_tokens {shown(repr(batch))}")
    texts: list[Any] = [run.log.environment, run.log.text, *(event.fields for event in run.events)]
    while texts:
        text = texts.pop()
        if isinstance(text, (dict, list)):
            texts += [*text, *text.values()] if isinstance(text, dict) else text
        elif isinstance(text, str):
            require(not STEERING.search(text), f"a character that steers a terminal in {shown(text)}")
    return ""


def code_hashes(run: Run, claim: Claim) -> str:
    """The code digest is that of the script and the files that the log carries."""
    files = loaded(run)
    named = run.at("code", "others")
    others = {path: file for path, file in files.items()
              if not path.startswith("harness/") or path in named and path.startswith(FRONT)}
    require(named == {path: file.sha256 for path, file in others.items()},
            "the files in the log are not those of the manifest")
    digest = code_digest(run.log.script, run.at("code", "harness"),
                         {path: file.source for path, file in others.items()})
    return require(run.at("code", "digest") == digest, "the code digest is not that of the code",
                   f"{len(files)} files and the script")


def no_overrides(run: Run, claim: Claim) -> str:
    """No flag changed a setting."""
    found = run.at("overrides")
    words = f"overrides on the command line: {shown(json_text(found, None).strip())}"
    return require(found == {}, words, "no overrides")


def sequence(run: Run, claim: Claim) -> str:
    """The events are numbered from 1 without a gap; none was taken out or put in."""
    for place, event in enumerate(run.events, start=1):
        found = event.fields.get("seq")
        require(event.kind == "file" or found == place, f"event {place} says it is number {found}")
    return f"{len(run.events)} events"


def harness(run: Run, claim: Claim) -> str:
    """The harness is one that this checkout accepts, it is that in the log, and no rank ran its launcher."""
    inside = {path: file.source for path, file in loaded(run).items() if path.startswith("harness/")}
    found = str(run.at("code", "harness"))
    strange = [p for p in inside if not re.fullmatch(r"harness/(front/)?\w+\.py|harness/tracks\.toml", p)]
    require(not strange, f"no file of a harness: {first_of(strange)}")
    front = [path for path in run.at("code", "others") if path.startswith(FRONT)]
    require(not front, f"a rank imported {first_of(front)}, which the harness digest leaves out")
    require(harness_digest(inside) == found, "the harness in the log is not the one of the manifest's digest")
    standing = claim.harnesses.standing(run)
    require(standing != "unknown",
            f"harness {found[:8]} is not accepted by this checkout's harness/tracks.toml")
    return require(standing != "closed", f"harness {found[:8]} is closed, and its list lacks this log",
                   f"harness {found[:8]}, {standing}", "unknown")


def track(run: Run, claim: Claim) -> str:
    """The run's rules are those of this checkout: data, validation tokens, target, limits, reduction."""
    differ = row_differences(run.log.track, claim.row)
    require(not differ, f"the run's track row: {first_of(differ)}")
    return require(run.at("reduction") == claim.row.get("reduction"), f"reduction {run.at('reduction')}",
                   f"target {claim.row.get('target')}, {claim.row.get('val_tokens')} validation tokens")


def row_differences(row: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Return in which rules a track's row, out of a log, differs from this checkout's.

    None, nothing and the target 0 of older rows of the lab are the same: no such rule.
    """
    return [f"{k} is {row.get(k)}, this checkout says {own.get(k)}"
            for k in RULES if (row.get(k) or None) != (own.get(k) or None)]


def data(run: Run, claim: Claim) -> str:
    """The validation shard is long enough, and each shard is a pinned one where any is pinned."""
    shards = [*run.at("data", "train"), run.at("data", "val")]
    for shard in shards:
        name, there = str(shard.get("file")), shard.get("sha256")
        pinned = claim.pinned.get(name)
        require(not claim.pinned or pinned == there,
                f"shard {name} has sha256 {str(there)[:8]}, pinned is {str(pinned)[:8]}")
    n = run.at("data", "val", "tokens")
    return require(n > claim.row["val_tokens"], f"{n} tokens in the validation shard",
                   f"{len(shards)} shards")


def tokens(run: Run, claim: Claim) -> str:
    """The run took the tokens that its recipe says, and no more than there are."""
    asked, end = run.at("data", "tokens"), run.end.get("tokens")
    have = sum(shard["tokens"] for shard in run.at("data", "train")) * run.at("data", "epochs")
    require(asked == end, f"{end} tokens taken, the recipe says {asked}")
    require(asked < have, f"{asked} tokens taken of {have}")
    taken = [val.tokens for val in run.log.vals]
    return require(taken == sorted(taken) and taken[:1] == [0], "the tokens taken do not grow from 0",
                   f"{asked} tokens")


def parameters(run: Run, claim: Claim) -> str:
    """The model has at most the active parameters that the track allows."""
    active, most = run.at("parameters", "active"), claim.row["max_active_parameters"]
    return require(0 < active <= most, f"{active} active parameters, the track allows {most}",
                   f"{active} active parameters of at most {most}")


def status(run: Run, claim: Claim) -> str:
    """Every run ended in order."""
    words = f"status {run.status} {run.end.get('type', '')} {run.end.get('message', '')}".rstrip()
    return require(run.status == "ok", words, "ok")


def complete(run: Run, claim: Claim) -> str:
    """No run was resumed or stopped early; every step and every validation is there."""
    steps, every = run.at("hyperparameters", "num_iterations"), run.at("hyperparameters", "val_every")
    require(run.at("resumed_from") is None, "resumed from a checkpoint")
    require(run.at("launch", "stop_at_step") is None, "asked to stop early")
    require({step.last_step for step in run.log.steps} == {steps}, f"step lines that do not count to {steps}")
    if run.at("hyperparameters", "ends_on_tokens"):  # sooner, where a step may take what it likes
        most, steps = steps, run.end["step"]
        require(type(steps) is int and steps <= most, f"{steps} steps, at most {most}")
    validated = [val.step for val in run.log.vals]
    require(0 < every and steps <= len(run.log.steps),  # else a list of steps that nobody made fills memory
            f"{steps} steps with a validation every {every} steps, in {len(run.log.steps)} step lines")
    expected = [*range(0, steps, every), steps]
    require(validated == expected, f"validated at steps {first_of([str(s) for s in validated], 9)}")
    trained = [step.step for step in run.log.steps if step.train_loss is not None]
    return require(trained == list(range(1, steps + 1)), f"{len(trained)} step lines of {steps}",
                   f"{steps} steps, {len(validated)} validations")


def nothing_late(run: Run, claim: Claim) -> str:
    """No project file was loaded after the start."""
    late = [str(event.get("path")) for event in run.of_kind("late")]
    return require(not late, f"loaded after the start: {first_of(late)}", "none")


def settings(run: Run, claim: Claim) -> str:
    """torch's compiler has its default settings."""
    found = run.at("sys", "settings")
    words = f"not torch's defaults: {first_of([str(line) for line in found or ['unknown']])}"
    return require(found == [], words, "torch's defaults")


def monotone(run: Run, claim: Claim) -> str:
    """Training time grows from step to step and from validation to validation."""
    vals = [val.train_time_ns for val in run.log.vals]
    require(vals[:1] == [0] and all(a < b for a, b in zip(vals, vals[1:])),
            f"training time at the validations: {first_of([str(ns) for ns in vals], 9)} ns")
    lines = [(step.step, step.train_time_ms) for step in run.log.steps]
    return require(lines == sorted(lines), "a step line is earlier than the one above it",
                   f"{vals[-1] / 1e9:.1f} s of training")


def wall(run: Run, claim: Claim) -> str:
    """Wall time is that of its parts; next to nothing is unexplained.

    Behind the last validation, where ranks of a busy host wait, lies a part of its own: see `untimed`.
    """
    parts = [run.end.get(name, 0 if name == "finish_ns" else None) for name in PARTS]  # older logs have none
    whole = run.end.get("wall_ns")
    require(all(type(n) is int and n >= 0 for n in [*parts, whole]), "times are missing or negative")
    require(sum(parts) == whole, f"the parts of the wall time add up to {sum(parts)} of {whole} ns")
    unexplained = f"{parts[-1] / 1e9:.2f} s of {whole / 1e9:.1f} s unexplained"
    require(parts[-1] <= 1e9 + 0.02 * whole, unexplained)
    require(parts[0] == run.end.get("train_time_ns"), "timed segments and training time differ")
    lived = run.end["clocks"]["monotonic_ns"] - run.at("clocks", "monotonic_ns")
    words = f"clocks of start and end {lived / 1e9:.2f} s apart, wall time {whole / 1e9:.2f} s"
    return require(whole - parts[1] - SLACK_NS <= lived <= whole + SLACK_NS, words, unexplained)


def clocks(run: Run, claim: Claim) -> str:
    """The host's clock was not set and the host not suspended during the run."""
    passed = {k: ns - run.at("clocks", k) for k, ns in run.end["clocks"].items() if ns is not None}
    off = abs(passed["realtime_ns"] - passed["monotonic_ns"])
    require(off <= SLACK_NS + 200e-6 * passed["monotonic_ns"], f"the clock was set by {off / 1e6:.0f} ms")
    asleep = passed.get("boottime_ns", passed["monotonic_ns"]) - passed["monotonic_ns"]
    return require(asleep < SLACK_NS, f"suspended for {asleep / 1e9:.1f} s",
                   f"realtime and monotonic clock {off / 1e6:.1f} ms apart")


def tripwires(run: Run, claim: Claim) -> str:
    """No tripwire of the harness spoke: causality, environment, tokens, weights, the harness itself."""
    words = [str(event) for event in run.of_kind("tripwire")]
    message = str(run.end.get("message", ""))
    if run.end.get("type") == "Tripwire" or TRIPWIRE.match(message):
        words.append(message)
    return require(not words, first_of(words), "silent")


def lines(run: Run, claim: Claim) -> str:
    """The step lines and the end line say what the events say."""
    printed = [step for step in run.log.steps if step.val_loss is not None]
    events, text_bytes = run.of_kind("val"), claim.row.get("val_bytes")
    require(len(printed) == len(events), f"{len(printed)} val_loss lines, {len(events)} val events")
    for step, val, event in zip(printed, run.log.vals, events):
        says = (step.step, f"{step.val_loss:.4f}", step.train_time_ms)
        expected = (val.step, f"{val.val_loss:.4f}", round(val.train_time_ns / 1e6))
        require(says == expected, f"a line says {says}, its event {expected}")
        bits = text_bytes and val.val_loss * claim.row["val_tokens"] / math.log(2) / text_bytes
        require(bits is None or math.isclose(bits, number(event.get("bits_per_byte")), rel_tol=1e-9),
                f"bits per byte at step {val.step} are not those of the loss")
    for step in run.log.steps:
        average = step.train_time_ms / step.step if step.step else math.nan
        near = math.isnan(average) if math.isnan(step.step_avg_ms) else (
            abs(step.step_avg_ms - average) <= 0.5 / step.step + 0.006)  # both are rounded
        require(near, f"step {step.step}: step_avg {step.step_avg_ms} ms, the time gives {average:.2f} ms")
    for name in ("step", "val_loss", "train_time_ns", "tokens", "weights"):
        require(run.end.get(name) == events[-1].get(name),
                f"{name} of the end line and of the last validation differ")
    return f"{len(run.log.steps)} step lines"


def git(run: Run, claim: Claim) -> str:
    """Which commit the checkout stood at; a dirty one is no fault: the log holds the code that ran."""
    dirty = {True: ", dirty", False: ""}.get(run.at("git", "dirty"), ", unknown whether clean")
    commit = str(run.at('git', 'commit'))
    return f"commit {commit if commit == 'unavailable' else commit[:8]}{dirty}"


def first_loss(run: Run, claim: Claim) -> str:
    """The first validation is that of a model which knows nothing yet."""
    loss, least = run.log.vals[0].val_loss, math.log(claim.row["vocab_size"]) - UNTRAINED
    return require(loss >= least, f"{loss:.4f} nats at step 0, ln V - {UNTRAINED} is {least:.4f}",
                   f"{loss:.4f} nats at step {run.log.vals[0].step}", "review")


def untimed(run: Run, claim: Claim) -> str:
    """Nothing ran before the run in its process, and what is not timed took no longer than it has to.

    That is: CPU time at open_run beyond the judge's child's for the same imports, the submission's set-up,
    warm-up and validation beyond the median of their steps and pieces, all after the last validation. A token
    costs no more in a piece than in a step.
    """
    process, spare = run.at("process"), run.end.get("untimed")
    require(process and spare, "the log does not tell", state="unknown")
    require(not (n := process["runs_before"]), f"{n} runs before it in its process", state="review")
    numbers = (process["cpu_ns"], *spare.values())
    require(all(type(n) is int and n >= 0 for n in numbers), "times are missing or negative")
    started, charged, validated = process["cpu_ns"], run.end["timed_ns"], run.end["validation_ns"]
    steps, pieces = spare["step_ns"] * run.end["step"], spare["piece_ns"] * spare["pieces"]
    require(steps <= 2 * charged and pieces <= 2 * validated, "a median of over twice a mean", "", "review")
    with contextlib.suppress(ReadError):  # which `judge` tells
        started = min((verdict_on(run) or {}).get("import_cpu_ns") or started, 30 * 10**9)
    trained = run.at("hyperparameters", "batch_tokens") / run.at("world_size")  # tokens of a rank's step
    piece = min(spare["piece_ns"], int(spare["step_ns"] * claim.row["val_piece"] / trained))
    parts = {"start": process["cpu_ns"] - started,
             "set-up": spare.get("setup_ns", 0),
             "warm-up": run.end["warmup_ns"] - spare["warmup_steps"] * spare["step_ns"] - spare["compile_ns"],
             "validation": validated - spare["pieces"] * piece,
             "finish": run.end.get("finish_ns", 0)}
    excess = sum(max(0, ns) for ns in parts.values())
    named = ", ".join(f"{what} {ns / 1e9:.2f}" for what, ns in parts.items())
    words = f"{excess / 1e9:.2f} s beyond what is needed ({named})"
    return require(excess <= 0.1 * charged + 2e9, words, words, "review")


def imports(run: Run, claim: Claim) -> str:
    """No module was loaded from outside the log, the standard library and what torch brings."""
    modules = run.at("process", "modules")
    require(modules is not None, "the log does not tell", state="unknown")
    found = [f"{name} {of.get('version')} ({str(of.get('sha256'))[:16]})" for name, of in modules.items()]
    return require(not found, first_of(found), "none", "review")


def judge(run: Run, claim: Claim) -> str:
    """The judge, who knows only log and weights, finds the log's loss, and no look ahead."""
    found = verdict_on(run)
    require(found, "no verdict of the judge; `python -m records judge LOG` makes one", state="unknown")
    by = f"judged by {JUDGES[found['judged_by']]}"
    refused = shown(str(found.get("refused")), 200)
    require(found["ok"], f"{refused}; loss {shown(str(found.get('loss')))}, {by}")
    init, apart = found["init"], number(found["loss"]) - run.log.vals[-1].val_loss
    require(math.isclose(abs(apart), abs(number(found["difference"])), abs_tol=1e-9),
            f"a loss {apart:+.1e} from the log's, of which the verdict says {found['difference']}")
    hp, holdout = run.mapping("hyperparameters"), found.get("holdout") or {}
    length = hp.get("val_seq_len") or hp.get("seq_len") or 1
    least = max(128, min(length, claim.row["val_tokens"] // length // 4))
    gap = f"a gap to the holdout {number(holdout.get('sds', 0)):.1f} sd above that of honest runs"
    whole = re.fullmatch(r"landlock\d+\+seccomp", found["sandbox"])
    for what, settled in ((gap, holdout.get("word") != "review"), ("no whole sandbox", whole),
                          (f"{found['cuts']} cuts of at least {least}", found["cuts"] >= least),
                          (f"first weights {shown(init)}", init == "same" or found["judged_by"] != "owner")):
        require(settled, f"{what}, {by}", state="review")
    return f"{apart:+.1e} nats from the log's loss, {found['cuts']} cuts, {shown(found['sandbox'])}, {by}"


OF_A_RUN = (fields, code_hashes, sequence, harness, no_overrides, track, data, tokens, parameters, status,
            complete, monotone, wall, clocks, nothing_late, settings, tripwires, lines, git, first_loss,
            untimed, imports, judge)
