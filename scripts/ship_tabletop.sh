#!/usr/bin/env bash
# The recipe of the tabletop weights that ship: record the demonstrations, train the variants two at a time.
# Usage: scripts/ship_tabletop.sh DATASET_FOLDER [WEIGHTS_FOLDER]
set -euo pipefail
data=$1
weights=${2:-src/actloop/weights/tabletop}
record() { actloop record --world tabletop --noise-share 0.5 --disturb-share 0.15 --out "$data" "$@"; }
record --episodes 40
record --episodes 80 --tasks timing consequence drawer
record --episodes 150 --tasks static
variant() { actloop train "tabletop-$1" --data "$data" --out "$weights/$1.safetensors"; }
{ variant no-cotrain; variant fast; variant action-conditioned; } &
variant joint
variant idm
variant optional-idm
wait
# Real-time chunking, trained: fast goes on for a thousand steps with the committed actions of the plan in force given.
recipe=$weights/continuing/fast-committed.toml
filled=$weights/continuing/filled.toml
sed "s#DATASET_FOLDER#$(realpath "$data")#" "$recipe" > "$filled"
actloop finetune "$filled" --out "${recipe%.toml}.safetensors"
rm "$filled"
