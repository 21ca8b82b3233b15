#!/bin/sh
# Everything that has to hold on a GPU, step by step: one log each in --out, one line each here.
# A step that could not run is not passed. Exits 0 when every step passed, 1 when one did not.
set -u

usage() {
    cat << END
usage: bench/gpu_check.sh [options] [STEP...]

  --backend NAME   cuda (default), or cpu to try this script
  --build DIR      where squint and its tests are built, default build
  --out DIR        logs, answers and times, default gpu-check
  --shared DIR     reference data, default \$SQ_SHARED or ../shared beside the checkout. It is not in
                   the repository: demo/ (the demo model as it was trained), demo/eval/
                   (transformers' answers, pictures) and demo/golden/; without it golden-demo,
                   questions-* and kept are skipped
  --model NAME     what bench times, default synthetic:llava-1.5-7b
  --seconds N      limit of one program, default 550; --slot-seconds N of one slot of opcheck
                   under compute-sanitizer, default 200
  --repeat N       runs that bench times, default 15
  --dry-run        print the commands only
  --list           the steps

Without STEP all of them run, in this order. compute-sanitizer must be on the PATH for memcheck and
racecheck, and python3 with torch and transformers for peers.
END
}

steps="device opcheck-f32 opcheck-bf16 opcheck-f16 opcheck-self-test golden-stages golden-demo \
memcheck-f32 memcheck-bf16 memcheck-f16 racecheck-f32 racecheck-bf16 racecheck-f16 \
questions-f32 questions-bf16 questions-cpu kept bench peers"

cd "$(dirname "$0")/.." || exit 1
backend=cuda build=build out=gpu-check model=synthetic:llava-1.5-7b
seconds=550 slot_seconds=200 repeat=15 dry='' asked=''
shared=${SQ_SHARED:-$PWD/../shared}
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --list) echo "$steps" | tr -s ' ' '\n' && exit 0 ;;
    --dry-run) dry=1 ;;
    --backend | --build | --out | --shared | --model | --seconds | --slot-seconds | --repeat)
        [ $# -gt 1 ] || { echo "gpu_check.sh: $1 needs a value" >&2 && exit 2; }
        case $1 in
        --backend) backend=$2 ;;
        --build) build=$2 ;;
        --out) out=$2 ;;
        --shared) shared=$2 ;;
        --model) model=$2 ;;
        --seconds) seconds=$2 ;;
        --slot-seconds) slot_seconds=$2 ;;
        --repeat) repeat=$2 ;;
        esac
        shift
        ;;
    -*) echo "gpu_check.sh: unknown option $1 (--help)" >&2 && exit 2 ;;
    *)
        case " $steps " in
        *" $1 "*) asked="$asked $1" ;;
        *) echo "gpu_check.sh: unknown step $1 (--list)" >&2 && exit 2 ;;
        esac
        ;;
    esac
    shift
done
squint=$build/squint opcheck=$build/tests/opcheck/opcheck
export SQ_SHARED="$shared"
[ -n "$dry" ] || mkdir -p "$out" || exit 1

# Prints the command, and runs it within its limit; 124: it took longer, 137: and had to be killed.
run_within() {
    limit=$1
    shift
    echo "+ $*" >&2
    [ -n "$dry" ] || timeout -k 10 "$limit" "$@"
}

run() { run_within "$seconds" "$@"; }

lacks() {
    echo "skipped: $*"
    return 77
}

# ---- the steps; each returns its exit code, 77 when it could not run ----

device() {
    run "$squint" info --backends || return 1
    [ -n "$dry" ] || "$squint" info --backends | grep -q "^$backend *ok: " ||
        lacks "backend $backend does not start"
}

sanitize_slot() {
    every=1
    case $1.$3 in racecheck.attn | racecheck.attn_step | racecheck.linear) every=6 ;; esac
    run_within "$slot_seconds" compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 1000 \
        "$opcheck" --backend "$backend" --compute "$2" --every $every \
        --slot "$(echo "$3" | tr '~' ' ')"
}

# Whether all that racecheck reports lies in cuBLASLt's kernels (nvjet_*), which hand shared memory
# on in ways that it does not know. Leaving them out by name makes the sanitizer itself fail.
only_library() {
    n=$(grep -c 'Race reported' "$1") # at the limit of printed reports one of ours may be missing
    [ "$n" -gt 0 ] && [ "$n" -lt 1000 ] && grep -q ' 0 failed$' "$1" &&
        ! grep 'Race reported' "$1" | grep -qv 'at nvjet_'
}

# All slots at once, each in a process of its own: one that takes too long costs only itself.
sanitize() {
    worst=0 bad='' library='' table=tests/opcheck/opcheck.c dir=$out/$1-$2
    slots=$(sed -n 's/^    {"\([a-z_ ]*\)", oc_check.*/\1/p' $table | tr ' ' '~')
    [ "$(echo "$slots" | wc -l)" -gt 15 ] || { echo "$table: slots not found" && return 1; }
    if [ -n "$dry" ]; then
        for slot in $slots; do
            sanitize_slot "$1" "$2" "$slot"
        done
        return
    fi
    command -v compute-sanitizer || { lacks "no compute-sanitizer"; return; }
    mkdir -p "$dir" || return
    for slot in $slots; do
        (
            export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
            sanitize_slot "$1" "$2" "$slot" > "$dir/$slot.log" 2>&1
            echo $? > "$dir/$slot.code"
        ) &
    done
    wait
    for slot in $slots; do
        code=$(cat "$dir/$slot.code")
        echo "$slot: $code: $(grep -h 'SUMMARY\|checks, ' "$dir/$slot.log" | tr '\n' ' ')"
        if [ "$code" -eq 9 ] && [ "$1" = racecheck ] && only_library "$dir/$slot.log"; then
            library="$library $slot" code=0
        fi
        [ "$code" -eq 0 ] || bad="$bad $slot($code)"
        # a report counts for more than a slot that took too long
        case $worst in 0 | 124 | 137) [ "$code" -eq 0 ] || worst=$code ;; esac
    done
    [ -z "$library" ] || echo "reports in cuBLASLt's own kernels only:$library"
    echo "$(echo "$slots" | wc -l) slots, with a report (9) or out of time (124, 137):${bad:- none}"
    return "$worst"
}

# questions BACKEND TYPE LEAST: 800 questions, without pruning and with fastervlm at four budgets.
questions() {
    reference=$shared/demo/eval/reference.json answers=$out/answers-$1-$2.jsonl
    [ -n "$dry" ] || [ -f "$reference" ] || { lacks "$reference is missing"; return; }
    [ -n "$dry" ] || rm -f "$answers"
    run "$squint" bench -m "$shared/demo" --backend "$1" --compute "$2" \
        --questions models/demo/eval/questions.jsonl --images "$shared/demo/eval" \
        --methods none,fastervlm --keep 288,144,72,29 --answers "$answers" || return
    run python3 bench/reference.py "$answers" "$reference" --least "$3"
}

kept() {
    for file in "$out/answers-$backend-f32.jsonl" "$out/answers-cpu-f32.jsonl"; do
        [ -n "$dry" ] || [ -f "$file" ] || { lacks "$file is missing"; return; }
    done
    # A token whose score ties in the last place may be swapped.
    run python3 bench/kept.py "$out/answers-$backend-f32.jsonl" "$out/answers-cpu-f32.jsonl" \
        --most 1
}

# The stages of docs/SPEED.md; the first run of 85 rows, after 84, is what a new length takes.
bench() {
    stages=vision:1,vision:5,vision:32,vision+rows:1,project:576,prefill:84,prefill:85
    stages=$stages,prefill:199,prefill:631,prefill:2935,decode:631,decode:631x8,first-token:29
    set -- "$squint" bench -m "$model" --backend "$backend" --repeat "$repeat" \
        --stages "$stages" --format csv
    [ -z "$dry" ] || { run "$@"; return; }
    run "$@" > "$out/bench.csv"
    code=$?
    cat "$out/bench.csv"
    return $code
}

peers() {
    [ -n "$dry" ] || python3 -c 'import torch, transformers' ||
        { lacks "no torch or transformers"; return; }
    tiny=''
    [ "$backend" = cuda ] || tiny="--tiny --squint-backend $backend"
    # shellcheck disable=SC2086 # words
    run python3 bench/gpu_peers.py --squint "$squint" --squint-model "$model" --repeat "$repeat" \
        --squint-budget $((seconds / 3)) --budget $((seconds / 2)) $tiny
}

step() {
    case $1 in
    device | kept | bench | peers) "$1" ;;
    opcheck-self-test) run "$opcheck" --backend "$backend" --compute bf16 --self-test ;;
    opcheck-*) run "$opcheck" --backend "$backend" --compute "${1#*-}" ;;
    golden-*) run "$build/tests/test_${1#*-}" "$backend" ;;
    memcheck-* | racecheck-*) sanitize "${1%-*}" "${1#*-}" ;;
    questions-f32) questions "$backend" f32 99.5 ;;
    questions-bf16) questions "$backend" bf16 97 ;;
    questions-cpu) questions cpu f32 99.5 ;;
    esac
}

# ---- one line a step ----

passed=0 others=0
for name in ${asked:-$steps}; do
    log=$out/$name.log start=$(date +%s)
    if [ -n "$dry" ]; then
        step "$name"
        continue
    fi
    step "$name" > "$log" 2>&1 < /dev/null
    code=$?
    case $code in
    0) verdict=passed ;;
    77) verdict=SKIPPED ;;
    124 | 137) verdict='OUT OF TIME' ;;
    *) verdict="FAILED ($code)" ;;
    esac
    if [ $code -eq 0 ]; then passed=$((passed + 1)); else others=$((others + 1)); fi
    printf '%-18s %-12s %4d s  %s\n' "$name" "$verdict" $(($(date +%s) - start)) \
        "$(grep -v '^ *$' "$log" | tail -1 | cut -c 1-100)"
done
[ -n "$dry" ] && exit 0
echo "$passed passed, $others not; logs in $out"
[ $others -eq 0 ]
