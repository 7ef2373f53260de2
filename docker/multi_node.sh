#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Triton on this node, with the ranks of its models on this one and others, started over ssh.
#   multi_node.sh MODELS SLOTS NODE... [-- tritonserver options]
# MODELS is the model repository, SLOTS the ranks (GPUs) of a node; the first NODE is this one. Every config.pbtxt
# names MODELS/hostfile as its parameter hostfile, with tensor_para_size * pipeline_para_size = SLOTS * nodes.
set -euo pipefail

if (($# < 3)); then
  echo "usage: $0 MODELS SLOTS NODE... [-- tritonserver options]" >&2
  exit 2
fi
models=$1 slots=$2
shift 2
nodes=()
while (($#)) && [[ $1 != -- ]]; do
  nodes+=("$1")
  shift
done
shift "$(($# > 0))"  # the --

for node in "${nodes[@]:1}"; do
  # A rank that cannot start there would end the whole engine with less to read.
  ssh -o BatchMode=yes -o ConnectTimeout=10 "$node" "$(command -v python3) -c 'import fastertransformer'" || {
    echo "$node: no ssh without a password, or no fastertransformer for $(command -v python3)" >&2
    exit 1
  }
done
printf "%s slots=$slots\n" "${nodes[@]}" >"$models/hostfile"
exec tritonserver --model-repository="$models" "$@"
