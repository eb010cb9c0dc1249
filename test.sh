#!/usr/bin/env bash
# The whole test suite on CPU, without network. -m 'slow and not long': the longer tests, which CI runs too; -m long: those
# of minutes, by hand. Other arguments go to pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$root/run.sh" --environment "$root"/{data,records,lab,tests}/requirements.txt)
cd "$root"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
exec "$python" -m pytest "$@"
