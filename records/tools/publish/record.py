"""What a record says in numbers: record.json and the block in its README.md, made from its logs alone."""
import datetime
import re
import statistics
from typing import Any

from records.tools.check.claim import Claim
from records.tools.check.of_a_claim import all_attempts, conclude
from records.tools.check.of_a_run import number_of
from records.tools.check.race import Race
from records.tools.read.log import read_bytes
from records.tools.read.values import ReadError, cell, json_text, number, parse_json, shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
BEGIN, END = "<!-- record begin -->", "<!-- record end -->"
SECTIONS = {  # of a record's README: what a writer is asked
    "Idea": "What is new, and why should it help?",
    "What changed": "Which lines differ from the record before it, and which hyperparameters?",
    "Ablation": "What does each change give alone, over how many runs, and what did not work?",
    "Credit": "Whose ideas are these: names, papers, pull requests?",
}


def build(claim: Claim, name: str) -> dict[str, Any]:
    """Return what record.json says of a claim whose logs passed: nothing that the logs do not.

    Losses in nats per token, one a seed; times in s, one a run.
    """
    runs = sorted(claim.own, key=lambda run: run.run_id)
    first, losses, decided = runs[0], claim.losses(), conclude(claim, all_attempts(claim))
    begun, ended = (datetime.datetime.fromtimestamp(ns // 10**9, datetime.UTC) for ns in (
        min(run.at("clocks", "realtime_ns") for run in runs),
        max(run.end["clocks"]["realtime_ns"] for run in runs)))
    return {
        "format": 1, "track": claim.track, "name": name,
        "date": ended.date().isoformat(), "begun": begun.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "n": len(losses), "val_loss": spread(losses),
        "train_time_s": spread([run.end["train_time_ns"] / 1e9 for run in runs]),
        "steps": first.end["step"], "tokens": first.end["tokens"],
        "parameters": first.at("parameters"), "world_size": first.world_size,
        "device": first.device, "torch": first.versions.get("torch"),
        "code": first.at("code", "digest"), "script_sha256": first.at("code", "script"),
        "harness": first.at("code", "harness"), "target": first.at("track_row", "target"),
        "significance": {"word": decided.word, "reason": decided.reason,
                         "p": six_digits(decided.test and decided.test.p)},
        "race": claim.race and raced(claim.race, first.at("code", "digest")),
        "logs": [{"file": f"logs/{run.run_id}.txt", "sha256": run.sha256, "run_id": run.run_id,
                  "seed": run.seed, "val_loss": run.end["val_loss"],
                  "train_time_s": run.end["train_time_ns"] / 1e9} for run in runs],
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n-1; None for one value) and the values."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": values}


def six_digits(p: float | None) -> float | None:
    """Return p to six significant digits; what follows depends on how the tail of t is computed."""
    return p and float(f"{p:.6g}")


def raced(race: Race, code: str) -> dict[str, Any]:
    """Return what a record's race shows of its code against the other side's."""
    found = race.judge(race.side_of(code))
    other = race.plan[found["against"]]
    names = ("verdict", "reason", "pairs", "difference_s", "difference_percent", "attempts", "killed")
    return {**{name: found.get(name) for name in names}, "p": six_digits(found["p"]),
            "against": {name: other.get(name) for name in ("code", "script")}}


def block_of(record: dict[str, Any]) -> str:
    """Return the block of a record's README.md, between its markers."""
    loss, time, race = record["val_loss"], record["train_time_s"], record["race"]
    rows = {
        "track": record["track"],
        "verdict": f"{record['significance']['word']}: {record['significance']['reason']}",
        "val_loss (nats per token)": f"{with_sd(loss, 4)}, target {record['target']}, "
                                     f"{number_of(loss['values'], 'seed')}",
        "training time (s)": f"{with_sd(time, 2)}, {number_of(time['values'], 'run')}",
        "steps, tokens": f"{record['steps']}, {record['tokens']}",
        "parameters": ", ".join(f"{n} {what}" for what, n in sorted(record["parameters"].items())),
        "hardware": f"{record['device']}, {number_of(range(record['world_size']), 'rank')}, "
                    f"torch {record['torch']}",
        "race": race_words(race) if race else "none: no claim of speed",
        "code, harness": f"{record['code'][:8]}, {record['harness'][:8]}",
    }
    lines = ["| | |", "|---|---|", *(f"| {what} | {cell(str(value))} |" for what, value in rows.items()),
             "", "| log | seed | val_loss | training time (s) |", "|---|---|---|---|"]
    lines += [f"| [{cell(log['run_id'])}]({log['file']}) | {log['seed']} | {log['val_loss']:.4f} | "
              f"{log['train_time_s']:.2f} |" for log in record["logs"]]
    return "\n".join([BEGIN, *lines, END])


def race_words(race: dict[str, Any]) -> str:
    """Return one line on a race."""
    against = f"against {race['against']['script']} {str(race['against']['code'])[:8]}: {race['verdict']}"
    if race["difference_s"] is None:
        return f"{against} ({race['reason']})"
    killed = f", {race['killed']} of {race['attempts']} attempts killed" if race["killed"] else ""
    return (f"{against}, {race['difference_s']:+.2f} s ({number(race['difference_percent']):+.2f} %) to "
            f"equal loss, {race['pairs']} pairs, p {number(race['p']):.2g}{killed}")


def with_sd(spread: dict[str, Any], digits: int) -> str:
    """Return a mean and, where there is one, the standard deviation."""
    sd = "" if spread["sd"] is None else f" (sd {spread['sd']:.{digits}f})"
    return f"{spread['mean']:.{digits}f}{sd}"


def replaced(text: str, begin: str, end: str, block: str, name: str) -> str:
    """Return a text with what stands between two markers, both included, replaced by a block.

    Raises ReadError unless each marker stands there once, in order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ReadError(f"{shown(name)}: expected {begin} and, below it, {end}, each once")
    return text[:text.index(begin)] + block + text[text.index(end) + len(end):]


def skeleton(record: dict[str, Any]) -> str:
    """Return a new record's README.md: the block, and sections that ask for words."""
    asked = "".join(f"\n## {title}\n\n<!-- {question} -->\n" for title, question in SECTIONS.items())
    return f"# {record['name']}\n\n{block_of(record)}\n{asked}"


def unanswered(text: str) -> list[str]:
    """Return the sections of a record's README.md in which nobody wrote a word."""
    parts = re.split(r"(?m)^## (.*)$", re.sub(r"(?s)<!--.*?-->", "", text))
    written = {title.strip(): body.strip() for title, body in zip(parts[1::2], parts[2::2])}
    return [title for title in SECTIONS if not written.get(title)]


def differences(claim: Claim) -> list[str]:
    """Return what in a record's folder is not what its logs give; nothing where all is."""
    folder = claim.record
    assert folder is not None
    record = build(claim, folder.name[len("2026-01-01_"):])
    place = f"{claim.track}/{record['date']}_{record['name']}"
    misnamed = {f"logs/{run.path.name}" for run in claim.own} ^ {log["file"] for log in record["logs"]}
    found, text = (read_bytes(folder / name) for name in ("record.json", "README.md"))
    page = text.decode(errors="replace")
    return [words for wrong, words in (
        (f"{folder.resolve().parent.name}/{folder.name}" != place, f"the folder should be {place}"),
        (not NAME.fullmatch(record["name"]), "the name has other characters than letters, digits, - and _"),
        (misnamed, f"logs are not named by their run id: {', '.join(sorted(misnamed)[:3])}"),
        (found != json_text(record).encode(), f"record.json: {first_difference(found, record)}"),
        (replaced(page, BEGIN, END, block_of(record), "README.md") != page,
         "README.md: the block between its markers")) if wrong]


def first_difference(data: bytes, record: dict[str, Any]) -> str:
    """Return in words where the bytes of a record.json differ from what they should say."""
    try:
        found = parse_json(data.decode())
    except (ReadError, UnicodeDecodeError) as error:
        return str(error)
    for key, expected in sorted((dict.fromkeys(found) | parse_json(json_text(record))).items()):
        if found.get(key) != expected:
            return f"{key} is {shown(str(found.get(key)))}, the logs give {shown(str(expected))}"
    return "not in its canonical form"
