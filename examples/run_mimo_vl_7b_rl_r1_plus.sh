#!/usr/bin/env bash
# LLaVA-Critic-R1+ | MiMo-VL-7B-RL-2508
#
# Data first, with the limits of the release:
#   critic-r1 prepare llava_critic_113k --input lmms-lab/llava-critic-113k --output data/critic \
#     --model XiaomiMiMo/MiMo-VL-7B-RL-2508 --min-pixels 262144 --max-pixels 4194304 --max-prompt-tokens 6142 --val-share 0.02
# Everything after the script's name is passed on: examples/run_mimo_vl_7b_rl_r1_plus.sh trainer.total_epochs=1

set -euo pipefail

########################### user-adjustable ###########################
TRAIN_FILES=${TRAIN_FILES:-$PWD/data/critic/train-*.parquet}
VAL_FILES=${VAL_FILES:-$PWD/data/critic/val-*.parquet}
MODEL_PATH=${MODEL_PATH:-XiaomiMiMo/MiMo-VL-7B-RL-2508}

# On several machines: a folder that all of them share.
RUN_DIR=${RUN_DIR:-$PWD/runs/r1_plus_mimo}

# 1x8, 2x8, 4x8 or 8x8 GPUs of 80 GB; 1x2 with TUNING=lora
CLUSTER=${CLUSTER:-1x8}

# release: the paper's batch shape exactly; fast: the same steps with less waiting
TUNING=${TUNING:-release}
########################### end user-adjustable #######################

DATA=(
    "data.train_files=[$(printf '%s\n' $TRAIN_FILES | paste -sd, -)]"
    "data.val_files=[$(printf '%s\n' $VAL_FILES | paste -sd, -)]"
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
)

TRAINER=(
    cluster="$CLUSTER"
    tuning="$TUNING"
    critic_r1.run_dir="$RUN_DIR"
)

python3 -m recipe.critic_r1.train --config-name r1_plus_mimo \
    "${DATA[@]}" \
    "${MODEL[@]}" \
    "${TRAINER[@]}" \
    "$@"
