#!/usr/bin/env bash
# Runs the suites that need a broker or a state against the RabbitMQ, Redis and Valkey of several Debian releases, each in
# a root file system of its own, and those that need an object store against other S3 implementations than ours, and prints
# a table. As root, on Debian, with debootstrap; downloads about 400 MB once.
#
#   tests/matrix/run.sh              all rows but Garage's
#   tests/matrix/run.sh trixie       rows whose name contains this
#   tests/matrix/run.sh S3           rows of S3 implementations (without root): moto, from PyPI
#   tests/matrix/run.sh Garage       built from crates.io once, for a quarter of an hour or more, and so only if it is named
#
# RADIALOG_MATRIX_ROOTS  where the root file systems and programs are kept (default ~/.cache/radialog-matrix)
# Logs of the rows lie beside the table, in target/matrix.
set -euo pipefail
cd "$(dirname "$0")/../.."
# The one folder that programs in a root file system see, too.
export TMPDIR=/tmp

roots=${RADIALOG_MATRIX_ROOTS:-${HOME}/.cache/radialog-matrix}
logs=${CARGO_TARGET_DIR:-target}/matrix
wanted=${1:-}
mirror=$(awk '/^(URIs:|deb )/ { print $2; exit }' /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true)
broker_suites=(conformance::queue delivery distributed chat_worker chat_processes)
state_suites=(conformance::state conformance::conversations chat_worker chat_processes
    delivery::clusters::every_primary delivery::forgotten delivery::links delivery::outages)
# The last one is a run whose results are in the store.
store_suites=(conformance::object_store::s3 distributed chat_processes worker_groups operations::a_batch_into_a_store)

die() { echo "run.sh: $*" >&2; exit 1; }
mkdir -p "$roots" "$logs"
# Two at a time would share mounts and table. What is started below does not inherit the lock.
exec 9>"$roots/lock"
flock --nonblock 9 || die "another one is at work over $roots"
case $wanted in
    *S3* | *moto* | *[Gg]arage*) suites=() ;;
    *)
        suites=(bookworm trixie forky)
        # A release that is named needs no other one.
        [[ " ${suites[*]} " != *" $wanted "* || -z $wanted ]] || suites=("$wanted")
        [ "$(id -u)" = 0 ] || die "debootstrap and chroot need root"
        command -v debootstrap >/dev/null || apt-get install -y --no-install-recommends debootstrap >/dev/null \
            || die "install debootstrap"
        ;;
esac

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
        # One that is left, as where a service has not ended, would be deleted with the folder.
        ! mountpoint -q "$place" || umount "$place" || umount --lazy "$place"
    done
}
store=
# What a store has written. Not below the logs: objects are named by anybody.
data=$(mktemp -d)
cleanup() {
    [ -z "$store" ] || kill "$store" 2>/dev/null || true
    rm -rf "$data"
    unmount
}
trap cleanup EXIT

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
    local name=$1 suite=$2 package=$3 program=$4 variable=$5 further=()
    shift 5
    [[ "$name" == *"$wanted"* || "$suite" == *"$wanted"* ]] || return 0
    program=$(wrapper "$suite" "$program")
    [ "$name" != 'Redis Cluster' ] || further=(RADIALOG_TEST_REDIS=cluster)
    run_suites "$name $(version "$suite" "$package") (Debian $suite)" "$logs/$suite-$name.log" "$variable=$program" \
        "${further[@]}" -- -- "$@"
}

# Runs suites with these variables, and prints their row.
# what the row calls the service, log, VARIABLE=VALUE ... -- suites of tests
run_suites() {
    local title=$1 log=$2 began=$SECONDS state=passed counts variables=()
    shift 2
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    env "${variables[@]}" cargo test --release --workspace --test it "$@" >"$log" 2>&1 9>&- || state="FAILED, see $log"
    counts=$(sed -n 's/^test result: [^.]*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$log" | tail -1)
    [ -n "$counts" ] || counts="0 0"
    printf '| %s | %s | %s of %s | %s s |\n' "$title" "$state" "${counts% *}" "$((${counts% *} + ${counts#* }))" \
        "$((SECONDS - began))" | tee -a "$logs/table.md"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Waits until somebody listens at a port.
until_open() {
    local port=$1 log=$2 attempt
    for attempt in $(seq 600); do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || return 0
        kill -0 "$store" 2>/dev/null || die "the store does not start ($attempt): see $log"
        sleep 0.1
    done
    die "nobody listens at port $port: see $log"
}

stop_store() {
    kill "$store" && wait "$store" || true
    store=
}

# The key that all stores here are given, in the form that Garage asks for.
key="GK$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')"
secret=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
credentials=("AWS_ACCESS_KEY_ID=$key" "AWS_SECRET_ACCESS_KEY=$secret")

# moto: it needs only Python, and knows conditional writes, which it does in two steps; in parts, it does not look at `If-Match`.
moto_row() {
    local port log="$logs/moto.log" python="$roots/moto/bin"
    if [ ! -e "$roots/moto/complete" ]; then
        python3 -m venv --clear "$roots/moto" && "$python/pip" install --quiet 'moto[server]==5.2.*' \
            && touch "$roots/moto/complete" || die "pip could not install moto[server]"
    fi
    port=$(free_port)
    "$python/moto_server" -H 127.0.0.1 -p "$port" >"$log" 2>&1 9>&- &
    store=$!
    until_open "$port" "$log"
    env "${credentials[@]}" "$python/python" - "http://127.0.0.1:$port" <<'CREATE'
import sys
import boto3
boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1").create_bucket(Bucket="radialog")
CREATE
    run_suites "S3 by moto $("$python/pip" show moto | sed -n 's/^Version: //p')" "$logs/S3-moto.log" \
        "RADIALOG_TEST_S3=http://127.0.0.1:$port/radialog" RADIALOG_TEST_S3_CONDITIONAL=small "${credentials[@]}" \
        -- -- "${store_suites[@]}"
    stop_store
}

# Garage (AGPL) runs beside us, as any service of a user's does, and is linked with nothing of ours. It does not know
# conditional writes, so that runs into it are refused.
garage_row() {
    local port rpc log="$logs/garage.log" program="$roots/garage/bin/garage"
    if [ ! -x "$program" ]; then
        echo "building Garage from crates.io (once; see $logs/garage-build.log)" >&2
        # Built to be right, not to be fast.
        CARGO_TARGET_DIR="$roots/garage-target" CARGO_PROFILE_DEV_DEBUG=0 cargo install garage --version '^2.5' --locked --debug \
            --no-default-features --features bundled-libs,sqlite --root "$roots/garage" >"$logs/garage-build.log" 2>&1 \
            || die "Garage does not build: see $logs/garage-build.log"
        rm -rf "$roots/garage-target"
    fi
    port=$(free_port) rpc=$(free_port)
    cat >"$data/garage.toml" <<CONFIG
metadata_dir = "$data/garage/meta"
data_dir = "$data/garage/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc"
rpc_secret = "$secret"
[s3_api]
s3_region = "us-east-1"
api_bind_addr = "127.0.0.1:$port"
CONFIG
    env "GARAGE_DEFAULT_ACCESS_KEY=$key" "GARAGE_DEFAULT_SECRET_KEY=$secret" GARAGE_DEFAULT_BUCKET=radialog \
        "$program" -c "$data/garage.toml" server --single-node --default-bucket >"$log" 2>&1 9>&- &
    store=$!
    until_open "$port" "$log"
    run_suites "S3 by Garage $("$program" --version | sed 's/^garage [a-z:]*//; s/ .*//')" "$logs/S3-garage.log" \
        "RADIALOG_TEST_S3=http://127.0.0.1:$port/radialog" RADIALOG_TEST_S3_CONDITIONAL=0 "${credentials[@]}" \
        -- -- "${store_suites[@]}"
    stop_store
}

printf '| service | suites | tests passed | time |\n| --- | --- | --- | --- |\n' | tee "$logs/table.md"
for suite in "${suites[@]}"; do
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
[ "${#suites[@]}" = 0 ] || row 'Redis Cluster' bookworm redis-server /usr/bin/redis-server RADIALOG_TEST_REDIS_SERVER \
    "${state_suites[@]}"
case $wanted in '' | *S3* | *moto*) moto_row ;; esac
case $wanted in *[Gg]arage*) garage_row ;; esac
grep -q FAILED "$logs/table.md" && exit 1 || exit 0
