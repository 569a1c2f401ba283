#!/bin/bash
#SBATCH --job-name=canthus
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --signal=TERM@120
# Runs `canthus train` or `canthus eval` on all GPUs of a Slurm job. Other commands use one process and need no Slurm file.
# Change the lines above for your cluster, or override them on the command line of sbatch:
#   sbatch slurm.sh train PACK -o RUN
#   sbatch slurm.sh train PACK -o RUN --choose-on OTHER-PACK
#   sbatch --dependency=afterany:JOB slurm.sh train PACK -o RUN --resume     (continues after the time limit of JOB)
#   sbatch --nodes=2 slurm.sh eval --model RUN/best.safetensors --wflw WFLW
#   PROCESSES=2 sbatch --gpus-per-node=0 --cpus-per-task=2 slurm.sh ...      (on the CPU)
# --resume needs no --choose-on: RUN/recipe.json names the pack that chooses the best checkpoint.
# --signal sends SIGTERM 120 s before the time limit; canthus then saves the run.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # differs for two jobs on one machine
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
    --rdzv-endpoint="$head:$port" --no-python canthus "$@"
