#!/bin/sh
# The rules of the tree (docs/design.md): who includes whom, sizes, widths, unique file names.
cd "$1" || exit 1
export LC_ALL=C.UTF-8
bad=0

fail() {
    echo "$1"
    bad=1
}

# forbid FOLDER PATTERN: no source in FOLDER may include a path that matches.
forbid() {
    hits=$(grep -rnE "^#include \"($2)" "$1" --include='*.c' --include='*.h' --include='*.cu' \
        --include='*.cuh') &&
        fail "$1 must not include $2:
$hits"
}

# Lower layers know nothing of higher ones; siblings do not know each other.
forbid src/core '(kernels|vision|llm|prune|models|cli|squint)'
forbid kernels '(vision|llm|prune|models|cli|squint)'
forbid src/vision '(llm|prune|models|cli|squint)'
forbid src/llm '(vision|prune|models|cli|squint)'
forbid src/prune '(vision|llm|models|cli|squint)'
forbid models '(prune|cli|squint)'
forbid src/cli '(kernels|vision|llm|prune|models|squint_impl)'
forbid samples '(kernels|vision|llm|prune|models|cli|core|squint_impl)'

sources=$(find src kernels models tests samples -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')
for f in $sources; do
    lines=$(wc -l < "$f")
    [ "$lines" -le 800 ] || fail "$f: $lines lines, 800 at most"
    wide=$(awk 'length($0) > 100 { printf "%d ", NR }' "$f")
    [ -z "$wide" ] || fail "$f: wider than 100 columns: lines $wide"
    if grep -q '	' "$f"; then fail "$f: tabs"; fi
done

double=$(echo "$sources" | sed 's|.*/||' | sort | uniq -d)
[ -z "$double" ] || fail "file names used twice: $double"

# The library never prints, exits, aborts or reads the environment.
hits=$(grep -rnE '[^a-z_](printf|puts|exit|abort|getenv|assert)\(' src/core src/vision src/llm src/prune \
    src/squint*.c models kernels --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' |
    grep -vE 'static_assert')
[ -z "$hits" ] || fail "the library must not do this:
$hits"

exit $bad
