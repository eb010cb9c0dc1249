"""docs/performance.md from the results of the benchmarks."""
from typing import Any

BUSY = 0.2  # cores that others may use beside a benchmark before the page warns

TITLES = {
    "gemm_share": "Share of the machine's matrix product", "two_ranks": "Two ranks over one",
    "harness_cost": "Cost of the harness", "stream_rate": "Reading tokens",
    "muon_sharded": "Sharded Muon at 124M",
    "reading_logs": "Checking records",
    "cold_start": "From the command to the first step", "time_to_loss": "Time to nanoGPT's loss",
    "learned_cost": "Cost of a learned update", "record_step": "The step of the laptop record",
    "muon_claims": "Muon's claims", "gpu_attention": "Attention",
    "gpu_recipes": "The frontier beside the 2024 recipe", "gpu_step": "The step",
    "gpu_same_bits": "The same bits again", "gpu_curve": "The loss curve",
}


def page(results: list[dict[str, Any]], command: str) -> str:
    """Return the page in Markdown: conditions, one table, one paragraph a benchmark."""
    lines = ["# Performance", "",
             f"Written by `{command}`, never by hand; the numbers lie in `bench/results/`. Ratios were "
             "measured side by side: in each round of one run all sides take turns. Shown is the median over "
             f"the rounds, with the smallest and the largest. One benchmark again: `{command} --only NAME`.",
             ""]
    for facts in unique([condition_line(result) for result in results]):
        lines.append(f"- {facts}")
    lines += ["", "| | measured | goal | |", "| --- | --- | --- | --- |"]
    for result in results:
        lines.append(f"| **{TITLES[result['name']]}** | | | |")
        for row in result["rows"]:
            verdict = "not measured (--quick)" if result["quick"] and row["goal"] else row["verdict"]
            lines.append(f"| {row['name']} | {row['measured']} | {row['goal']} | {verdict} |")
    lines += ["", "## How each was measured", ""]
    for result in results:
        busy = [load for load in result["foreign_load"] if load is not None and load > BUSY]
        warning = f" **Others used {max(busy):.1f} cores before or after it: measure again.**" if busy else ""
        facts = result["conditions"]
        lines += [f"**{TITLES[result['name']]}** (`{result['name']}`, {facts['date']}, "
                  f"{result['seconds']:.0f} s, load average {facts['load'][0]} at its start).{warning} "
                  f"{result['how']}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def condition_line(result: dict[str, Any]) -> str:
    """Return hardware and versions of a result in one line."""
    facts = result["conditions"]
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    return (f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['memory_gib']} GiB{gpu}; {facts['platform']}, "
            f"Python {facts['python']}, torch {facts['torch']}")


def unique(lines: list[str]) -> list[str]:
    """Return the lines without repetitions, in order."""
    return list(dict.fromkeys(lines))
