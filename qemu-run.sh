#!/usr/bin/env bash
# Builds the kernel, boots it in QEMU, tests and measures it. Installs what a bare Debian or Ubuntu machine lacks;
# the rest is the program `qemu-run` in tests/.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: ./qemu-run.sh [OPTIONS]                        every in-kernel test, the benchmarks and one trace
       ./qemu-run.sh test [FILTER]                    host tests, then in-kernel tests on several machines
       ./qemu-run.sh bench [FILTER] [--json FILE]     benchmarks, in instructions per operation
       ./qemu-run.sh replay TRACE.gz                  replays a recorded trace (some are in tests/traces/)
       ./qemu-run.sh gdb                              the in-kernel tests under gdb
       ./qemu-run.sh fsck IMAGE                       checks a machine's saved memory: every invariant of the
                                                      allocator that no held lock, or busy CPU, is at work on
       ./qemu-run.sh prove [--short] [PART...]        the long form of the tests, for hours: states, operations,
                                                      failures, models, miri, threads, kasan, address, fuzz,
                                                      soak, faults, flips, images, bugs, mutants; or all of them.
                                                      --short: minutes, of those parts that test has nothing of

Options of all but test and fsck:
  --mem SIZE          the machine's memory [2G]
  --smp N             its CPUs, 1 to 16 [1]
  --nodes N           spread memory and CPUs over N nodes, 1 to 8, that ACPI's SRAT and SLIT tell the kernel of
                      (the kernel's own word numa=fake=N, with which machines of the tests cut memory, is another thing)
  --lowmem SIZE       end the direct map there: memory above it is highmem
  --dump NAME,...     show these reports on memory in the end, named as in /proc: meminfo, buddyinfo, ...; or all
  --image FILE        save the machine's memory in the end, for fsck: of the first boot that goes wrong, or else of the
                      last (not with gdb)
  --timeout SECONDS   give up on a kernel that has been silent for so long [300]
  --accel tcg|kvm     who executes the instructions [tcg]; counting them takes tcg

Options of whatever runs in-kernel tests:
  --seed N            where random numbers start [0]; bench and replay take it, too
  --shift S           count instructions, 2^S ns each, 0 to 7: with the same seed all CPUs take turns at the same
                      instructions, on every run. Otherwise they run freely, a thread each
  --fail-page-alloc INTERVAL,PROBABILITY,SPACE,TIMES
  --failslab INTERVAL,PROBABILITY,SPACE,TIMES
                      of test only: which allocations of pages and objects fail in the tests of that, as Linux's words of
                      these names say

In-kernel tests are named MACHINE::TEST. One that fails on several CPUs says with which seed and shift it is replayed.
Exit status: 0 all passed, 1 not, 2 senseless arguments; of fsck 0 all holds, 1 not, 2 no image.
HELP
}

say() { echo "qemu-run.sh: $*" >&2; }

# install REASON PACKAGE...
install() {
    say "installing ${*:2}: $1"
    command -v apt-get >/dev/null || { say "there is no apt-get here: please install ${*:2}"; exit 1; }
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { say "neither root nor sudo here: please install ${*:2}"; exit 1; }
        root=(sudo)
    fi
    "${root[@]}" apt-get update || say "trying with the package lists that are here"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${@:2}"
}

# The words of a list in rust-toolchain.toml, which alone says what the project is built with.
toolchain() { sed -n "s/^$1 = //p" rust-toolchain.toml | tr -d '[]",'; }

setup() {
    command -v qemu-system-x86_64 >/dev/null || install "the machine that the kernel runs on" qemu-system-x86
    command -v cc >/dev/null || install "Rust links programs for this machine with a C compiler" gcc libc6-dev
    command -v cargo >/dev/null || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    command -v rustup >/dev/null || { say "please install rustup first: https://rustup.rs"; exit 1; }

    local channel component target have
    channel=$(toolchain channel)
    if ! rustup run "$channel" rustc --version >/dev/null 2>&1; then
        say "installing Rust $channel: the compiler that rust-toolchain.toml names"
        rustup toolchain install "$channel" --profile minimal --no-self-update
    fi
    have=$(rustup component list --installed --toolchain "$channel")
    for component in $(toolchain components); do
        grep -q "^$component\b" <<<"$have" && continue
        say "installing Rust's $component: rust-toolchain.toml asks for it"
        rustup component add --toolchain "$channel" "$component"
    done
    have=$(rustup target list --installed --toolchain "$channel")
    for target in $(toolchain targets); do
        grep -qx "$target" <<<"$have" && continue
        say "installing Rust's library for $target: what the kernel is compiled for"
        rustup target add --toolchain "$channel" "$target"
    done
}

case "${1-}" in
-h | --help | help)
    usage
    exit
    ;;
esac

# A file in the arguments is the caller's, so only the set-up leaves the caller's directory.
root=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
pushd "$root" >/dev/null
setup
export RUSTUP_TOOLCHAIN
RUSTUP_TOOLCHAIN=$(toolchain channel)
popd >/dev/null
[ "${1-}" = prove ] && exec "$root/tests/prove" "${@:2}"
exec cargo run --quiet --manifest-path "$root/Cargo.toml" --package tests --bin qemu-run -- "$@"
