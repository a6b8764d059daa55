# What every train.sh begins with: `recipes`, the folder of the script that reads this, and RADIALOG, the binary, by a path that holds in
# any folder. Without RADIALOG, radialog is built here.
recipes=$(cd "$(dirname "$0")" && pwd)
case ${RADIALOG:-} in
'')
    root=$(cd "$recipes/../../../.." && pwd)
    # From the root: cargo reads the processor to build for (.cargo/config.toml) where it is called, and without it a training takes
    # twice as long.
    (cd "$root" && cargo build --release -p radialog)
    RADIALOG=$(cd "$root" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/release/radialog
    ;;
*/*) RADIALOG=$(cd "$(dirname "$RADIALOG")" && pwd)/$(basename "$RADIALOG") ;;
# Any other name is looked for in PATH.
esac
