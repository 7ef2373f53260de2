#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Triton on the first node of a Slurm job, with the ranks of its models on all of them.
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 docker/slurm.sh MODELS [tritonserver options]
# MODELS is the model repository, on a file system of all nodes. Every config.pbtxt names MODELS/hostfile as its
# parameter hostfile, with tensor_para_size * pipeline_para_size = tasks per node * nodes.
#SBATCH --job-name=triton
#SBATCH --exclusive
set -euo pipefail

models=${1:?usage: slurm.sh MODELS [tritonserver options]}
shift
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$SLURM_NTASKS_PER_NODE/" >"$models/hostfile"
# The mpirun of an engine sees the job's nodes by itself, and needs no ssh.
exec tritonserver --model-repository="$models" "$@"
