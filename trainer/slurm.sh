#!/bin/bash
#SBATCH --job-name=canthus
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --signal=TERM@120
# sbatch trainer/slurm.sh PACK -o RUN ...   (what `canthus train` takes; --resume goes on after the time limit)
# More machines: sbatch --nodes=2 trainer/slurm.sh ...; processes on the CPU: PROCESSES=2 sbatch --gpus-per-node=0 ...
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$head:${PORT:-29500}" -m canthus.trainer.train "$@"
