#!/usr/bin/env bash
# The paper's ablation "supervised fine-tuning on the same critic data", by verl's SFT trainer | Qwen2.5-VL-7B-Instruct
#
# The Parquet files are those of GRPO. On several machines torchrun takes --nnodes, --node-rank and --rdzv-endpoint.

set -euo pipefail

########################### user-adjustable ###########################
TRAIN_FILES=${TRAIN_FILES:-$PWD/data/critic/train-00000.parquet}
VAL_FILES=${VAL_FILES:-$PWD/data/critic/val-00000.parquet}
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-7B-Instruct}
RUN_DIR=${RUN_DIR:-$PWD/runs/critic_sft}
NGPUS=${NGPUS:-8}
########################### end user-adjustable #######################

DATA=(
    data.train_files="$TRAIN_FILES"
    data.val_files="$VAL_FILES"
)

MODEL=(
    model.path="$MODEL_PATH"
)

TRAINER=(
    trainer.default_local_dir="$RUN_DIR/checkpoints"
    trainer.n_gpus_per_node="$NGPUS"
)

torchrun --standalone --nproc-per-node "$NGPUS" -m verl.trainer.sft_trainer \
    --config-path pkg://recipe.critic_r1.config --config-name critic_sft \
    "${DATA[@]}" \
    "${MODEL[@]}" \
    "${TRAINER[@]}" \
    "$@"
