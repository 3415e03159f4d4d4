#!/usr/bin/env bash
# The paper's ablation "policy first, then critic" | Qwen2.5-VL-7B-Instruct
#
# Two runs: plain questions first, then critic tasks on what came out. Both resume when the script is started again.

set -euo pipefail

########################### user-adjustable ###########################
POLICY_TRAIN=${POLICY_TRAIN:-$PWD/data/policy/train-00000.parquet}
POLICY_VAL=${POLICY_VAL:-$PWD/data/policy/val-00000.parquet}
CRITIC_TRAIN=${CRITIC_TRAIN:-$PWD/data/critic/train-00000.parquet}
CRITIC_VAL=${CRITIC_VAL:-$PWD/data/critic/val-00000.parquet}

# On several machines: a folder that all of them share.
RUN_DIR=${RUN_DIR:-$PWD/runs/policy_then_critic}
CLUSTER=${CLUSTER:-1x8}
########################### end user-adjustable #######################

POLICY=(
    ablation=policy_only
    cluster="$CLUSTER"
    data.train_files="$POLICY_TRAIN"
    data.val_files="$POLICY_VAL"
    critic_r1.run_dir="$RUN_DIR/policy"
)

CRITIC=(
    ablation=policy_then_critic
    cluster="$CLUSTER"
    data.train_files="$CRITIC_TRAIN"
    data.val_files="$CRITIC_VAL"
    actor_rollout_ref.model.path="$RUN_DIR/policy_model"
    critic_r1.run_dir="$RUN_DIR/critic"
)

python3 -m recipe.critic_r1.train --config-name r1 "${POLICY[@]}" "$@"

critic-r1 export "$RUN_DIR/policy" --out "$RUN_DIR/policy_model"

python3 -m recipe.critic_r1.train --config-name r1 "${CRITIC[@]}" "$@"
