#!/bin/sh
# Trains the demo model and checks what came out.
# usage: all.sh GPUS MINUTES OUT [options on pictures: --atlas FILE, --photos DIR]
#        all.sh --smoke OUT        the same steps in toy sizes on a CPU, a minute or less
# PYTHON names the interpreter, python3 by default.
set -eu

usage() {
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
}

here=$(dirname "$0")
python=${PYTHON:-python3}
if [ "${1-}" = --smoke ]; then
    [ $# -eq 2 ] || usage
    out=$2
    set -- --smoke --device cpu
    "$python" "$here/train.py" --out "$out" "$@"
else
    [ $# -ge 3 ] || usage
    gpus=$1 minutes=$2 out=$3
    shift 3
    "$python" -m torch.distributed.run --standalone --nproc_per_node "$gpus" \
        "$here/train.py" --minutes "$minutes" --out "$out" "$@"
fi
"$python" "$here/check_export.py" "$out"
"$python" "$here/curves.py" "$out" "$@" > "$out/curves.log"
cat "$out/curves.log"
"$python" "$here/evalset.py" "$out" --out "$out/eval" "$@"
