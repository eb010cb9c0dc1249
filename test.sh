#!/usr/bin/env bash
# The whole test suite on CPU, without network. ./test.sh -m slow for the longer tests; other arguments go to pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$root/run.sh" --environment "$root"/{data,records,lab,tests}/requirements.txt)
cd "$root"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
exec "$python" -m pytest "$@"
