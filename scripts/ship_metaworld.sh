#!/usr/bin/env bash
# The recipe of the Meta-World weights that ship: record the demonstrations, train two variants side by side.
# Usage: scripts/ship_metaworld.sh DATASET_FOLDER [WEIGHTS_FOLDER]
set -euo pipefail
data=$1
weights=${2:-src/actloop/weights/metaworld}
actloop record --world metaworld --out "$data" --episodes 60 --noise-share 0.5 --disturb-share 0 \
  --tasks drawer-open drawer-close button-press-topdown door-open push
variant() { actloop train "metaworld-$1" --data "$data" --out "$weights/$1.safetensors"; }
variant no-cotrain &
variant fast
wait
