#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that make targets need; does nothing where they are there.
#
#   install-tools.sh [GROUP ...]      all groups without arguments
#
#   guests   compiler and linker for wit/components (beside any rustup on PATH)
#   venv     python3 -m venv, where Python came without it
#   test     programs that tests start: kubectl
#
# Without the right to install it names the packages and exits with 1.
set -euo pipefail

usage() {
    sed -n '3,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

packages_of() { # $1: group; prints the packages that the group needs here
    case "$1" in
        guests) printf '%s\n' rustc-web cargo-web rust-web-src rust-web-llvm lld-22 ;;
        venv) has_venv || printf '%s\n' python3-venv ;;
        test) command -v kubectl >/dev/null 2>&1 || printf '%s\n' kubernetes-client ;;
        *) usage ;;
    esac
}

has_venv() {
    "${PYTHON:-python3}" -m ensurepip --version >/dev/null 2>&1 &&
        "${PYTHON:-python3}" -c 'import venv' >/dev/null 2>&1
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() {
    command -v apt-get >/dev/null 2>&1 && as_root true 2>/dev/null
}

[ $# -gt 0 ] || set -- guests venv test
missing=()
for group in "$@"; do
    wanted=$(packages_of "$group")
    for package in $wanted; do
        installed "$package" || missing+=("$package")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0
if ! may_install; then
    echo "install-tools: expected these Debian packages, and found no right to install them:" >&2
    echo "    ${missing[*]}" >&2
    exit 1
fi
echo "install-tools: installing ${missing[*]}" >&2
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --yes --no-install-recommends "${missing[@]}"
