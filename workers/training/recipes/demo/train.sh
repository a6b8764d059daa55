#!/bin/sh
# Trains the demo bundle from nothing: data sets, five trainings, the bundle, its figures. The language model alone takes half an hour of one core.
#
#   workers/training/recipes/demo/train.sh DATA OUT
#
# DATA has openi/reports.csv, nih/ and nih64/ (each labels.csv and images/); see the model card for where they come from.
# OUT is a folder to write to. An interrupted run goes on where it was: give the same folders again.
# RADIALOG names the binary; without it, radialog is built here.
set -eu

if [ $# -ne 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 64
fi
data=$(cd "$1" && pwd)
. "$(dirname "$0")/../radialog.sh"
mkdir -p "$2"
cd "$2"
# The allocator keeps what a step frees: the next step wants the same again.
export MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4000000000

# Runs a command whose result is FILE, unless that is there.
step() {
    file=$1
    shift
    if [ ! -e "$file" ]; then
        echo "== radialog $*"
        "$RADIALOG" "$@"
    fi
}

# Trains RECIPE into the folder of its name, or goes on with it. Its kind is its name unless given.
train() {
    if [ -e "$1.done" ]; then
        return
    fi
    echo "== radialog train $1 $1.toml"
    "$RADIALOG" train "${2:-$1}" "$1.toml" --out "$1" --resume=auto
    touch "$1.done"
}

ln -sfn "$data" data
cp "$recipes"/*.toml "$recipes"/*.csv .

step reports.csv prepare openi data/openi/reports.csv --out reports.csv
step findings-reports.csv prepare openi data/openi/reports.csv --of-findings --out findings-reports.csv
step pairs.csv prepare pairs --reports findings-reports.csv --images data/nih/labels.csv data/nih/images \
    --images data/nih64/labels.csv data/nih64/images --out pairs.csv
# What real reports hardly have, the labeler learns from synthetic ones; what it is measured by is in none of them.
step synthetic.csv prepare synthetic wordings.toml --reports 40000 --sentences findings-reports.csv radlabels.csv \
    --held-out minimal-pairs.csv:sentence --out synthetic.csv
step labeler.tokenizer.json prepare tokenizer --kind wordpiece --texts reports.csv:findings reports.csv:impression \
    synthetic.csv:findings --vocab 2500 --out labeler.tokenizer.json
for tokenizer in "alignment wordpiece 2001 --decoder" "language bpe 2000"; do
    set -- $tokenizer
    name=$1 kind=$2 vocabulary=$3
    shift 3
    step "$name.tokenizer.json" prepare tokenizer --kind "$kind" --texts reports.csv:findings reports.csv:impression \
        --vocab "$vocabulary" "$@" --out "$name.tokenizer.json"
done
step composed.train.json prepare composed --pairs pairs.csv --split train --times 6 --as-asked --out composed.train.json
step composed.validate.json prepare composed --pairs pairs.csv --split validate --as-asked --out composed.validate.json
step composed.more.json prepare composed --pairs pairs.csv --split train --times 8 --seed 43 --as-asked --out composed.more.json

train chexbert
train findings
train alignment
for split in train validate; do
    step "embeddings.$split.safetensors" prepare embeddings --images pairs.csv --split $split --bundle alignment/best --allow-outside \
        --out "embeddings.$split.safetensors"
done
train language
train language-more language

step uncalibrated bundle assemble uncalibrated --half --name demo --version 2 --embedding alignment/best --findings findings/last \
    --language language-more/last --scoring chexbert/best --license "Trained on NIH ChestX-ray14 (free to \
use) and on Open-i reports (CC BY-NC-ND 4.0): for research and other non-commercial use. Not a medical device. See MODEL_CARD.md."
step bundle bundle calibrate uncalibrated bundle --name demo --thresholds as-many --images data/nih/labels.csv data/nih/images \
    --images data/nih64/labels.csv data/nih64/images
step quality.json evaluate bundle --bundle bundle --openi findings-reports.csv --images data/nih/labels.csv \
    data/nih/images --images data/nih64/labels.csv data/nih64/images --out quality.json --texts texts.json
