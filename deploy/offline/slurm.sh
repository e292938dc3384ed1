#!/bin/bash
# Recordings of a list, shared out among the tasks of a Slurm array: sbatch deploy/offline/slurm.sh list.txt masks
# A task that failed is done again by the same command: what is finished is skipped.
#SBATCH --job-name=segd
#SBATCH --array=0-7
#SBATCH --cpus-per-task=2
#SBATCH --mem=1G
#SBATCH --time=04:00:00
#SBATCH --requeue
# Time to throw away what is not finished.
#SBATCH --signal=TERM@30
set -euo pipefail
list=${1:?a list of recordings} out=${2:?a folder for the outputs}
# SLURM_ARRAY_TASK_ID is the shard, from 0 on.
exec srun segd --http "" --input "@$list" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --no-pace --output "$out/{stem}.mkv"
