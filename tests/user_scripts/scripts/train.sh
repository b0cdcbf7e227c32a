#!/bin/bash
# ./train.sh EPOCHS SAVE_EVERY: what a cluster's own start script does before it hands over to Python.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
echo "training for $1 epochs on $(uname -s), rank $RANK of $WORLD_SIZE"
exec "${PYTHON:-python}" ddp.py "$@"
