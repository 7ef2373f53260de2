#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Nothing, or options: Triton over /models. A verb: `fastertransformer VERB`. Anything else is a command of its own.
set -eu

case "${1:-}" in
  "" | -*) exec tritonserver --model-repository=/models "$@" ;;
  serve | repository | request | check | convert | bench | bench-kernels | bench-collectives | demo | \
    issue-request | identity-test | end-to-end-test | lambada)
    exec fastertransformer "$@"
    ;;
  *) exec "$@" ;;
esac
