#!/usr/bin/env bash
# Runs the suites that need a broker or a state against the RabbitMQ, Redis and Valkey of several Debian releases, each in
# a root file system of its own, and prints a table. As root, on Debian, with debootstrap; downloads about 400 MB once.
#
#   tests/matrix/run.sh              all rows
#   tests/matrix/run.sh trixie       rows whose name contains this
#
# RADIALOG_MATRIX_ROOTS  where the root file systems are kept (default ~/.cache/radialog-matrix)
# Logs of the rows lie beside the table, in target/matrix.
set -euo pipefail
cd "$(dirname "$0")/../.."

roots=${RADIALOG_MATRIX_ROOTS:-${HOME}/.cache/radialog-matrix}
logs=${CARGO_TARGET_DIR:-target}/matrix
wanted=${1:-}
mirror=$(awk '/^(URIs:|deb )/ { print $2; exit }' /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true)
broker_suites=(conformance::queue delivery distributed chat_worker chat_processes)
state_suites=(conformance::state conformance::conversations chat_worker chat_processes)

die() { echo "run.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "debootstrap and chroot need root"
command -v debootstrap >/dev/null || apt-get install -y --no-install-recommends debootstrap >/dev/null \
    || die "install debootstrap"
mkdir -p "$roots" "$logs"

# A root file system of one Debian release with these packages, and what lies outside of it mounted.
root() {
    local suite=$1 folder=$roots/$1
    shift
    if [ ! -e "$folder/complete" ]; then
        echo "making a root file system of Debian $suite with $* (once; some minutes)" >&2
        # Packages must not start services, and this release of debootstrap may not know the next suite's name.
        [ -e "/usr/share/debootstrap/scripts/$suite" ] || ln -s sid "/usr/share/debootstrap/scripts/$suite"
        debootstrap --variant=minbase "$suite" "$folder" "${mirror:-http://deb.debian.org/debian}" \
            >"$logs/root-$suite.log" 2>&1 || die "debootstrap failed: see $logs/root-$suite.log"
        printf '127.0.0.1 localhost %s\n' "$(hostname)" >"$folder/etc/hosts"
        printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d" && chmod +x "$folder/usr/sbin/policy-rc.d"
        DEBIAN_FRONTEND=noninteractive chroot "$folder" apt-get install -y --no-install-recommends "$@" \
            >>"$logs/root-$suite.log" 2>&1 \
            || echo "apt-get is not content (Valkey's scripts want an init system): $logs/root-$suite.log" >&2
        touch "$folder/complete"
    fi
    local place
    for place in proc dev tmp; do
        mountpoint -q "$folder/$place" || mount --bind "/$place" "$folder/$place"
    done
}

unmount() {
    local place
    for place in "$roots"/*/proc "$roots"/*/dev "$roots"/*/tmp; do
        ! mountpoint -q "$place" || umount "$place"
    done
}
trap unmount EXIT

# A program of a root file system, as a command of ours.
wrapper() {
    local suite=$1 program=$2 file
    file=$roots/$1-$(basename "$2")
    [ -x "$roots/$suite$program" ] || die "$program is not in $roots/$suite: see $logs/root-$suite.log"
    printf '#!/bin/sh\nexec chroot %s %s "$@"\n' "$roots/$suite" "$program" >"$file"
    chmod +x "$file"
    echo "$file"
}

# shellcheck disable=SC2016 # dpkg's variable, not the shell's
version() { chroot "$roots/$1" dpkg-query -W -f='${Version}' "$2" | sed 's/^[0-9]*://; s/[-+~].*//'; }

# name, suite, Debian package, program, variable of the tests, suites of tests
row() {
    local name=$1 suite=$2 package=$3 program=$4 variable=$5
    shift 5
    [[ "$name" == *"$wanted"* || "$suite" == *"$wanted"* ]] || return 0
    local log="$logs/$suite-$name.log" began=$SECONDS state=passed
    [ "$program" = cluster ] || program=$(wrapper "$suite" "$program")
    env "$variable=$program" cargo test --release --workspace --test it -- "$@" >"$log" 2>&1 \
        || state="FAILED, see $log"
    local counts
    counts=$(sed -n 's/^test result: [^.]*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$log" | tail -1)
    [ -n "$counts" ] || counts="0 0"
    printf '| %s %s (Debian %s) | %s | %s of %s | %s s |\n' "$name" "$(version "$suite" "$package")" "$suite" "$state" \
        "${counts% *}" "$((${counts% *} + ${counts#* }))" "$((SECONDS - began))" | tee -a "$logs/table.md"
}

printf '| service | suites | tests passed | time |\n| --- | --- | --- | --- |\n' | tee "$logs/table.md"
for suite in bookworm trixie forky; do
    case $suite in
        bookworm) packages=(rabbitmq-server redis-server) ;;
        *) packages=(rabbitmq-server redis-server valkey-server) ;;
    esac
    root "$suite" "${packages[@]}"
    row RabbitMQ "$suite" rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server RADIALOG_TEST_RABBITMQ_SERVER \
        "${broker_suites[@]}"
    row Redis "$suite" redis-server /usr/bin/redis-server RADIALOG_TEST_REDIS_SERVER "${state_suites[@]}"
    [ "$suite" = bookworm ] \
        || row Valkey "$suite" valkey-server /usr/bin/valkey-server RADIALOG_TEST_REDIS_SERVER "${state_suites[@]}"
done
row 'Redis Cluster' bookworm redis-server cluster RADIALOG_TEST_REDIS "${state_suites[@]}"
grep -q FAILED "$logs/table.md" && exit 1 || exit 0
