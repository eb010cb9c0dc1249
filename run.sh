#!/usr/bin/env bash
# One command: environment, data, launch. ./run.sh --help shows these lines and the flags. Works in bash 3.2 too.
#   ./run.sh [flags]                      train; --python FILE: with this Python, instead of an own environment
#   ./run.sh --from RECORD|LOG [flags]    train the script of a record, with no file of the tree touched;
#                                         --yes: without asking
#   ./run.sh --seeds auto|N [flags]       train with one seed after another, until the track's rule decides;
#                                         --side_by_side: at once, one a GPU or core, for the loss alone
#   ./run.sh --environment FILE...        only make an environment with these requirements; print its Python
#   ./run.sh --help [--script FILE]       show this, with the hyperparameters of a script
#   ./run.sh --version                    show version and commit
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '%s\n' "$*" >&2; }
show() { say "+$(printf ' %q' "$@")"; "$@"; }

# pip_install PYTHON WORD...: pip's own words on a terminal, else a line for each file and the end
pip_install() {
    if [ -t 2 ]; then
        show "$1" -m pip install --disable-pip-version-check "${@:2}" >&2
    else
        show "$1" -m pip install --disable-pip-version-check --progress-bar off "${@:2}" | while IFS= read -r line; do
            case "$line" in *Downloading*|*Installing*|*Successfully*) say "$line" ;; esac
        done
    fi
}

new_enough() { "$1" -c "import sys, $2; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; }

# find_python MODULES: the first Python of 3.11 or later that has these modules
find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if new_enough "$name" "$1"; then printf '%s\n' "$name"; return; fi
    done
    return 1
}

# ready PYTHON FILE...: are the packages of these requirement files there, as new as asked, and torch 2.11 or later?
ready() {
    "$1" - "${@:2}" >/dev/null 2>&1 <<'END'
import re, sys
from importlib.metadata import version
assert sys.version_info >= (3, 11)
for file in sys.argv[1:]:
    for line in open(file):
        if asked := re.match(r"([\w.-]+)(?:>=([\d.]+))?", line):
            least = "2.11" if asked[1] == "torch" else asked[2] or "0"  # older than the pinned one
            found, least = (list(map(int, re.findall(r"\d+", text))) for text in (version(asked[1]), least))
            assert found >= least
END
}

# make_environment FILE...: .venv with these requirements; one process at a time makes it
make_environment() {
    local lock="$root/.venv.lock" python
    until mkdir "$lock" 2>/dev/null; do
        [ -w "$root" ] || { say "run.sh: $root is not writable, so no .venv can be made; use --python FILE"; exit 2; }
        if [ -f "$lock/pid" ] && ! kill -0 "$(cat "$lock/pid")" 2>/dev/null; then
            mv "$lock" "$lock.$$" 2>/dev/null && rm -rf "$lock.$$"; continue
        fi
        say "waiting for another process that is making .venv (if there is none: rm -r '$lock')"; sleep 3
    done
    echo $$ >"$lock/pid"
    trap 'rm -rf "$root/.venv.lock"' EXIT
    if ! ready "$root/.venv/bin/python" "$@"; then
        python=$(find_python "ensurepip, venv") || {
            say "run.sh: found no Python of 3.11 or later with venv; install one, or name it: ./run.sh --python FILE"
            exit 2
        }
        "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1 || show "$python" -m venv --clear "$root/.venv" >&2
        python="$root/.venv/bin/python"
        if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! "$python" -c 'import torch' 2>/dev/null; then
            # a build without gigabytes of CUDA, if its index answers
            local torch; torch=$(grep '^torch' "$root/requirements.txt")
            if "$python" -c 'import urllib.request as u; u.urlopen("https://download.pytorch.org/whl/cpu/torch/", timeout=5)' \
                    2>/dev/null; then
                pip_install "$python" "$torch" --index-url https://download.pytorch.org/whl/cpu \
                    || say "that failed; taking the default build"
            fi
        fi
        local files=(); local file
        for file in "$@"; do files+=(-r "$file"); done
        pip_install "$python" "${files[@]}" || {
            say "run.sh: pip could not install the packages; mend that, or name a Python that has them: --python FILE"
            exit 2
        }
    fi
    rm -rf "$lock"
    trap - EXIT
}

python="" seeds="" help="" from="" yes=""
requirements=("$root/requirements.txt")
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --python|--seeds|--from) word="$1=${2:-}"; shift; shift || true; set -- "$word" "$@" ;;
        --python=|--seeds=|--from=) say "run.sh: ${1%=} has no value"; exit 2 ;;
        --python=*) python="${1#*=}"; shift ;;
        --seeds=*) seeds="${1#*=}"; shift ;;
        --from=*) from="${1#*=}"; shift ;;
        --yes) yes=--yes; shift ;;
        -h|--help) help=yes; shift ;;
        --version)
            version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
            commit=$([ -e "$root/.git" ] && git -C "$root" rev-parse --short HEAD 2>/dev/null) || true
            printf '%s\n' "gpt2-speedrun $version${commit:+, commit $commit}"
            exit ;;
        --environment) shift; while [ $# -gt 0 ]; do requirements+=("$1"); shift; done; arguments=(--environment) ;;
        *) arguments+=("$1"); shift ;;
    esac
done
if [ -n "$help" ]; then
    for candidate in ${python:+"$python"} "$root/.venv/bin/python" "$(find_python sys)"; do
        if new_enough "$candidate" sys; then
            PYTHONPATH="$root" exec "$candidate" -P -m harness.front.usage ${arguments[@]+"${arguments[@]}"}
        fi
    done
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}"
    say "the flags are shown where there is a Python of 3.11 or later; install one, or name it: --python FILE"
    exit
fi
if [ -n "$from" ] && [ -n "$seeds" ]; then
    say "run.sh: --from together with --seeds: python3 -m records checkout '$from' FILE, then --script FILE"
    exit 2
fi
if [ -n "$yes" ] && [ -z "$from" ]; then
    say "run.sh: --yes goes with --from RECORD|LOG"
    exit 2
fi
[ -z "$seeds" ] || requirements+=("$root/records/requirements.txt")

if [ -n "$python" ]; then
    if ! ready "$python" "${requirements[@]}"; then
        say "run.sh: --python $python: not a Python of 3.11 or later with torch 2.11 or later and: ${requirements[*]}"
        exit 2
    fi
elif ready "$root/.venv/bin/python" "${requirements[@]}"; then
    python="$root/.venv/bin/python"
elif ready python3 "${requirements[@]}"; then
    python=python3
else
    make_environment "${requirements[@]}"
    python="$root/.venv/bin/python"
fi
if [ "${arguments[0]:-}" = --environment ]; then
    printf '%s\n' "$python"
    exit
fi

# before torch is loaded: waiting threads sleep instead of spinning, and freed memory is kept (fewer page faults)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=67108864
export PYTHONUNBUFFERED=1
if [ -n "$seeds" ]; then
    PYTHONPATH="$root" exec "$python" -P -m records seeds "$seeds" ${arguments[@]+"${arguments[@]}"}
fi
if [ -n "$from" ]; then
    PYTHONPATH="$root" exec "$python" -P -m records checkout "$from" ${yes:+"$yes"} \
        --run ${arguments[@]+"${arguments[@]}"}
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -P -m harness.front.launch ${arguments[@]+"${arguments[@]}"}
