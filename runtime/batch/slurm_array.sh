#!/bin/bash
#SBATCH --job-name=canthus
#SBATCH --array=1-100
#SBATCH --cpus-per-task=2
# Processes many videos or images as an array of Slurm jobs, each one part of the files, on shared folders.
# Change the lines above for your cluster, or override them on the command line of sbatch:
#   job=$(sbatch --parsable --array=1-100 slurm_array.sh video clips/ --table tables/)
#   sbatch --array=0 --dependency=afterany:$job slurm_array.sh video clips/ --table tables/
# The second line merges: it skips what the parts have finished, does what they have not (a job that reached its time
# limit, a machine that was lost), and writes summary.csv. Both lines can be submitted again at any time.
part=()
if [ "$SLURM_ARRAY_TASK_ID" -gt 0 ]; then
    part=(--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX")
fi
exec canthus "$@" --jobs 1 --threads "${SLURM_CPUS_PER_TASK:-1}" "${part[@]}"
