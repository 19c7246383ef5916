#!/usr/bin/env bash
# Write requirements.txt anew: the newest versions that pyproject.toml's `dev`
# extra allows, for every Python from 3.11 up. Needs uv. TORCH=… moves torch.
set -euo pipefail
cd "$(dirname "$0")/.."
new=$(mktemp)
trap 'rm -f "$new"' EXIT
echo "torch==${TORCH:-2.15.0}" | uv pip compile --universal --python-version 3.11 \
    --extra dev --constraint - --no-annotate --no-header --quiet \
    --no-emit-package cvattn pyproject.toml -o "$new"
{
    echo "# Exact versions that build and test the book, for Python 3.11 to 3.14."
    echo "# Written by \`make pins\`. torch brings its own CUDA packages, if any."
    grep -Ev '^(nvidia-|cuda-|triton)' "$new"
} > requirements.txt
