"""Reads the logs of the public NanoGPT speedrun, in every layout of its history, and those of llm.c.

They have no end mark and little order: rules of 100 `=` set code, environment, data and steps apart, or there
are none. Nothing in one is trusted. Every pattern begins in a literal, can match in one way only, and repeats
a group a bounded number of times (re keeps a hundred bytes for each): time and memory stay in proportion.
"""
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from records.tools.read.run import Point, Run
from records.tools.read.tracks import public_track
from records.tools.read.values import NoLog, ReadError, shown

POINTS, RUNS = 1 << 18, 1000  # in a file; 64 MiB of "s:1 trl:1" would take a gigabyte of memory
NUMBER = rb"([-+]?(?:\d{1,40}(?:\.\d{1,40})?(?:e[-+]?\d{1,5})?|nan|inf))"
WHOLE = rb"(\d{1,18})"
END = rb"[ \t\r]*(?=\n|\Z)"
STEP = re.compile(rb"\nstep:" + WHOLE + rb"/" + WHOLE + rb"(?: (val|train)_loss:" + NUMBER + rb")?"
                  rb"((?: [a-z_]{1,40}_loss:[-+.\dinfae]{1,90}){0,20}) train_time:" + NUMBER + rb"(ms|s)"
                  rb" step_avg:" + NUMBER + rb"ms(?: [^\s:]{1,99}:\S{1,999}){0,99}" + END)
OTHER = re.compile(rb" ([a-z_]+_loss):" + NUMBER + rb"(?= |$)")
LLMC = re.compile(rb"\ns:" + WHOLE + rb" (tel|trl):" + NUMBER + rb"(?: lr:\S+)?(?: norm:\S+)?" + END)
RULE = re.compile(rb"\n={100}\r?(?=\n)")
HELPER = re.compile(rb"\n-{40}\n# ([^\n]{1,200})\n-{40}\n\n?")
PEAK = re.compile(rb"\npeak memory (?:consumption|allocated): " + WHOLE + rb" MiB")
SEED = re.compile(rb"\n(?:Using |trial:\d{1,9}/\d{1,9} )?seed[:=]" + WHOLE + rb"(?=[ \r\n]|\Z)")
GPU = re.compile(rb"\n\| {1,9}\d{1,3} {1,9}([A-Z][^\n|]{1,60}?) {1,60}(?:On|Off) {1,9}\|")
DEVICE = re.compile(rb"\nRunning [^\n]{0,200}?on (?:device_name=)?([A-Z][^\n=]{1,60}) with world_size[= ]"
                    rb"(\d{1,6})")
SECONDS = re.compile(rb" train_time:[\d.]{1,40}s step_avg:")
VERSIONS = {
    "python": re.compile(rb"\nRunning [pP]ython (\S{1,80})"),
    "torch": re.compile(rb"\nRunning [pP]y[tT]orch (\S{1,80})"),
    "cuda": re.compile(rb"\nRunning [pP]y[tT]orch \S{1,80} compiled for CUDA (\S{1,80})"),
    "triton": re.compile(rb"\nRunning Triton version (\S{1,80})"),
    "driver": re.compile(rb"Driver Version: (\S{1,80})"),
}


def read_public(path: Path, data: bytes) -> list[Run]:
    """Return the runs of a public log. A last line that is cut off is left out.

    Raises ReadError where there is no validation line, or there are more lines than any run has.
    """
    data = b"\n" + data  # so that each line, the first too, begins with a newline
    try:
        found = _runs(path, STEP, data) or _runs(path, LLMC, data)
        if not found:
            raise NoLog("no log of a run: no validation line like step:1/2 val_loss:3.28 train_time:3ms "
                        "step_avg:1.50ms or s:1 tel:3.28")
        starts, runs = [start for start, _ in found], [run for _, run in found]
        layout, code, below = _layout(data, starts[0])
        script, files = _split(code)
    except ReadError as error:
        raise type(error)(f"{shown(path.name)}: {error}") from None
    device, world_size = _device(data, below, starts[0])
    versions = {name: match[1].decode(errors="replace") for name, pattern in VERSIONS.items()
                if (match := pattern.search(data, below, starts[0]))}
    track = public_track(script, bool(SECONDS.search(data, starts[0], starts[0] + 4096)))
    ends, seeds = [*starts[1:], len(data)], _seeds(data, [below, *starts])
    for run, start, end, run.seed in zip(runs, starts, ends, seeds):
        peak = PEAK.search(data, start, end)
        run.peak_memory_mib = int(peak[1]) if peak else None
        run.format = "llm.c" if data.startswith(b"\ns:", starts[0]) else f"public {layout}"
        run.code, run.files, run.device, run.world_size = script, files, device, world_size
        run.versions, run.track = versions, track
    return runs


def _runs(path: Path, pattern: re.Pattern[bytes], data: bytes) -> list[tuple[int, Run]]:
    """Return where each run's first line begins and what its lines say; none without a validation line.

    A new run begins where the step falls.
    """
    runs: list[tuple[int, Run]] = []
    latest = 0
    for count, (match, validated, point, steps, digits) in enumerate(_points(pattern, data)):
        if count >= POINTS:
            raise ReadError(f"more than {POINTS} lines of steps; a log has at most that many")
        if not runs or point.step < latest:
            if len(runs) == RUNS:
                raise ReadError(f"more than {RUNS} runs; a log has at most that many")
            runs.append((match.start(), Run(path, len(runs), "")))
        run, latest = runs[-1][1], point.step
        run.steps = steps
        (run.vals if validated else run.train).append(point)
        if validated and digits is not None:
            run.val_decimals = min(digits, digits if run.val_decimals is None else run.val_decimals)
    return runs if any(run.vals for _, run in runs) else []


def _points(pattern: re.Pattern[bytes], data: bytes) -> Iterator[tuple]:
    """Yield (match, whether it validates, point, last step, decimals of its loss) for each line of a step."""
    before = None
    for match in pattern.finditer(data):
        if pattern is STEP:
            step, steps, kind, loss, others, time, unit, average = match.groups()
            time_ms = float(time) if unit == b"ms" else round(float(time) * 1000, 6)
        else:
            (step, kind, loss), steps, time_ms, average, others = match.groups(), None, None, None, b""
        digits = loss and _decimals(loss)
        if pattern is LLMC and match.end() == len(data) and digits != before:
            return  # it may be cut off inside its number
        before = digits
        more = tuple((name.decode(), float(value)) for name, value in OTHER.findall(others)) if others else ()
        yield (match, kind in (b"val", b"tel"), Point(int(step), loss and float(loss), time_ms, None,
                                                      average and float(average), more),
               steps and int(steps), digits)


def _decimals(number: bytes) -> int | None:
    """Return the digits behind the point of a printed number; None for nan and inf."""
    return None if number[-1:] in b"nf" else len(number.partition(b"e")[0].partition(b".")[2])


def _layout(data: bytes, first: int) -> tuple[str, bytes | None, int]:
    """Return the letter of a layout, the code with its helper files, and where that ends."""
    rules = [match.span() for match in RULE.finditer(data, 0, first + 1)]
    if rules and rules[0][0] == 0:
        if len(rules) == 1:
            return "F", None, 0
        code = data[rules[0][1] + 1:rules[1][0] + 1]  # as written; later ones print it, with a newline more
        return "A" if len(rules) < 4 else "B", code, rules[1][1]
    if not rules:
        return "F", None, 0
    return "EDC"[min(len(rules), 3) - 1], data[1:rules[0][0]], rules[0][1]


def _split(code: bytes | None) -> tuple[bytes | None, dict[str, bytes]]:
    """Return the main script, and the helper files that were printed behind it by their names there."""
    if code is None:
        return None, {}
    marks = list(islice(HELPER.finditer(code), RUNS))
    starts = [0, *(mark.end() for mark in marks)]
    ends = [*(mark.start() + 1 for mark in marks), len(code)]
    parts = [code[start:end] for start, end in zip(starts, ends)]
    parts[:-1] = [part.removesuffix(b"\n\n") for part in parts[:-1]]  # two newlines stood between them
    names = [mark[1].decode(errors="replace").strip() for mark in marks]
    if len(set(names)) < len(names):
        raise ReadError("two helper files of one name in the code; each file of a log has its own")
    return parts[0], dict(zip(names, parts[1:]))


def _device(data: bytes, start: int, end: int) -> tuple[str | None, int | None]:
    """Return the devices that nvidia-smi's table or a line of track 3 names, and the ranks of that line."""
    rows = islice(GPU.finditer(data, start, end), RUNS)
    kinds = Counter(row[1].decode(errors="replace") for row in rows)
    line = DEVICE.search(data, start, end)
    world_size = int(line[2]) if line else None
    if line and not kinds:
        kinds[line[1].decode(errors="replace")] = world_size
    return " + ".join(f"{n} x {name}" for name, n in kinds.items()) or None, world_size


def _seeds(data: bytes, borders: list[int]) -> list[int | None]:
    """Return each run's seed: the last stated above its first line, below that of the one before.

    borders: where the code ends, and the first line of each run.
    """
    seeds: list[int | None] = []
    for start, end in zip(borders, borders[1:]):
        stated = None
        for stated in SEED.finditer(data, start, end + 1):
            pass
        seeds.append(int(stated[1]) if stated else None)
    if seeds[0] is None:  # stated behind a run, if at all: of several, whose it is cannot be told
        stated = SEED.search(data, borders[1]) if len(seeds) == 1 else None
        return [int(stated[1]) if stated else None] + [None] * (len(seeds) - 1)
    return seeds
