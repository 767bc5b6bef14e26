#!/usr/bin/env bash
# The runs behind docs/results/small-models.md. Usage: scripts/ship_results.sh FOLDER
# 42 episodes per skill: 14 seeds of each of three colours (7 of each of six pairs to stack, 42 of the one drawer).
set -euo pipefail
out=$1
run() { name=$1; shift; actloop compare --out "$out/$name" --latency measured --workers 2 "$@"; }
run colours --episodes 14 --sweep --tasks pick place-left place-right belt drawer uncover
run stack --episodes 7 --sweep --tasks stack --videos 0
run open-drawer --episodes 42 --sweep --tasks open-drawer --videos 0
run latency --episodes 14 --sweep 0 190 600 published --tasks belt --videos 0
run metaworld --world metaworld --episodes 40 --sweep \
  --tasks drawer-open drawer-close button-press-topdown door-open
run metaworld-push --world metaworld --episodes 40 --sweep --videos 0 --tasks push
