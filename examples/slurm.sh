#!/bin/bash
# Train on several machines: sbatch --nodes 2 --gpus-per-node 8 examples/slurm.sh --data FOLDER --out runs/big
# One task for each machine; torchrun starts one process for each GPU in it.
#SBATCH --job-name=kakusan
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-1}
# Two jobs on one machine must not meet at one port.
port=$((20000 + SLURM_JOB_ID % 20000))

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$gpus" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:$port" \
  -m -- kakusan train "$@"
