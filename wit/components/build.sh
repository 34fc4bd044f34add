#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds every component beside this script to <name>/<name>.wasm, and writes <name>/<name>.digest.
#
#   build.sh           build, and replace the checked-in files
#   build.sh --check   build elsewhere, and compare with the checked-in files
#
# Needs the Debian packages of `deploy/install-tools.sh guests`, and no network: the standard library
# is built from rust-web-src. The same compiler gives the same bytes, wherever it runs. An
# interruption leaves the checked-in files as they were: each is replaced by one rename.
set -euo pipefail

readonly here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly components=(image-classifier)
readonly rustc=${RUSTC:-/usr/bin/rustc}
readonly cargo=${CARGO:-/usr/bin/cargo}
readonly suite="tests/unit/agent/components tests/unit/wire/test_world.py"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The linker makes components itself, but takes a world as one file: the package's files in one, with
# one package line.
join_wit() {
    echo "package kedge:ai@0.1.0;"
    cat "$here"/../kedge-ai/*.wit | grep -v '^package '
}

build() { # $1: component; leaves $scratch/<component>.wasm
    local host sysroot
    host=$("$rustc" -vV | sed -n 's/^host: //p')
    sysroot=$("$rustc" --print sysroot)
    # RUSTC_BOOTSTRAP lets a release compiler build its own standard library (-Zbuild-std).
    (cd "$here/$1" && env RUSTC_BOOTSTRAP=1 RUSTC="$rustc" RUSTFLAGS= \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$sysroot/lib/rustlib/$host/bin/wasm-component-ld" \
        "$cargo" rustc --quiet --offline --locked --release \
        --target wasm32-unknown-unknown --target-dir "$scratch/target" \
        -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size \
        --config 'source.crates-io.replace-with="vendored"' \
        --config "source.vendored.directory=\"$sysroot/lib/rustlib/src/rust/library/vendor\"" \
        -- -C link-arg=--wasm-ld-path=/usr/bin/wasm-ld-22 \
        -C link-arg=--component-type="$scratch/world.wit")
    mv "$scratch/target/wasm32-unknown-unknown/release/${1//-/_}.wasm" "$scratch/$1.wasm"
}

digest() { # $1: component
    (cd "$scratch" && sha256sum "$1.wasm")
    "$rustc" -vV
}

compare() { # $1: component
    local made
    made=$(sha256sum <"$scratch/$1.wasm" | cut -d' ' -f1)
    if cmp -s "$scratch/$1.wasm" "$here/$1/$1.wasm"; then
        echo "$1: unchanged, sha256 $made"
    elif [ "$(tail -n +2 "$here/$1/$1.digest")" != "$("$rustc" -vV)" ]; then
        echo "$1: sha256 $made, made by another compiler than the checked-in file:"
        "$rustc" -vV | sed 's/^/    /'
        echo "  whether it behaves the same is for its suite to say: make test T=\"$suite\""
    else
        echo "$1: sha256 $made, but the checked-in file differs: its sources have changed" >&2
        return 1
    fi
}

replace() { # $1: component
    digest "$1" >"$scratch/$1.digest"
    for file in "$1.wasm" "$1.digest"; do
        install -m 0644 "$scratch/$file" "$here/$1/.$file.new"
        mv "$here/$1/.$file.new" "$here/$1/$file"
    done
    head -n 1 "$here/$1/$1.digest"
}

case "${1-}" in
    "" | --check) ;;
    *) echo "usage: build.sh [--check]" >&2; exit 2 ;;
esac
join_wit >"$scratch/world.wit"
status=0
for component in "${components[@]}"; do
    build "$component"
    if [ "${1-}" = --check ]; then
        compare "$component" || status=1
    else
        compare "$component" 2>/dev/null || true
        replace "$component"
    fi
done
exit "$status"
