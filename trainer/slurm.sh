#!/bin/bash
#SBATCH --job-name=canthus
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --signal=TERM@120
# Runs canthus train or canthus eval on all GPUs of a job; the other commands do not share work, and need no torchrun.
# Change the lines above for your cluster, or tell sbatch instead:
#   sbatch slurm.sh train PACK -o RUN
#   sbatch --dependency=afterany:JOB slurm.sh train PACK -o RUN --resume     (goes on after the time limit of JOB)
#   sbatch --nodes=2 slurm.sh eval --model RUN/best.safetensors --wflw WFLW
#   PROCESSES=2 sbatch --gpus-per-node=0 --cpus-per-task=2 slurm.sh ...      (on the CPU)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a machine
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
    --rdzv-endpoint="$head:$port" --no-python canthus "$@"
