#!/bin/sh
# Trains the input gate from nothing, and measures it: a quarter of an hour of one core.
#
#   workers/training/recipes/gate/train.sh DATA OTHERS OUT
#
# DATA has nih/, nih64/, hannover/, captioned/ and openi/ (see the model card for where they come from). OTHERS is a folder that others.py has
# filled with pictures that are no chest X-rays. OUT is a folder to write to. An interrupted run goes on where it was: give the same
# folders again. RADIALOG names the binary; without it, radialog is built here.
set -eu

if [ $# -ne 3 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 64
fi
data=$(cd "$1" && pwd)
others=$(cd "$2" && pwd)
. "$(dirname "$0")/../radialog.sh"
mkdir -p "$3"
cd "$3"
ln -sfn "$data" data
ln -sfn "$others" others
cp "$recipes"/*.toml "$recipes"/*.csv .

"$RADIALOG" train gate gate.toml --out gate --resume=auto
for split in validate test; do
    echo "== $split"
    "$RADIALOG" evaluate gate gate.toml --weights gate/last/weights.safetensors --split $split
done
echo "The program has these weights once it is built with them: copy gate/last/weights.safetensors to workers/models/src/input_gate/,"
echo "raise the revision of the findings stage (schemas/src/stage.rs) and record it: RADIALOG_WRITE_REVISIONS=1 cargo it revisions"
