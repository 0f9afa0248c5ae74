#!/usr/bin/env bash
# What has to be known of a real GPU, in at most ten minutes. Run from the root of the repository, in its environment:
#
#   tools/speed/gpu_check.sh [OUT]                # a CUDA device of 45 GiB or more; results go to OUT (gpu_check)
#   tools/speed/gpu_check.sh --dry-run [OUT]      # the same on the CPU with small models, to try the script itself
#
# In order: versions and devices; the device tests; sampling and updates on a model of 2 layers, then on Qwen2.5-7B's shape with random
# weights in NF4. A part that fails or takes too long does not stop the next. Send OUT/report.md; docs/hardware.md says where its
# figures belong.
set -u
PYTHON=${PYTHON:-python}
device=cuda
if [ "${1:-}" = "--dry-run" ]; then
  device=cpu
  shift
fi
out=${1:-gpu_check}
mkdir -p "$out"
failed=""

part() { # NAME SECONDS COMMAND...: runs it, keeps what it says in OUT/NAME.txt
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name"
  if timeout "$limit" "$@" >"$out/$name.txt" 2>&1; then
    echo "   done in $((SECONDS - start)) s"
  else
    echo "   FAILED after $((SECONDS - start)) s: $out/$name.txt"
    failed="$failed $name"
  fi
}

part env 60 "$PYTHON" -m cahl_pl env
if [ "$device" = cuda ]; then
  part tests 190 env CAHL_TEST_DEVICE=cuda "$PYTHON" -m pytest -q tests/devices tests/callbacks/test_memory.py
  part small 60 "$PYTHON" -m tools.speed.gpu_step --small --device cuda --out "$out/small.json"
  part full 290 "$PYTHON" -m tools.speed.gpu_step --device cuda --out "$out/full.json"
else
  part tests 900 env CAHL_TEST_DEVICE=cpu "$PYTHON" -m pytest -q tests/devices -k cahl-1
  part small 900 "$PYTHON" -m tools.speed.gpu_step --small --device cpu --out "$out/small.json"
fi

{
  echo "# GPU check of $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo
  echo "Failed:${failed:- nothing}"
  for name in env tests small full; do
    [ -f "$out/$name.txt" ] || continue
    printf '\n## %s\n\n' "$name"
    tail -n 40 "$out/$name.txt"
  done
} >"$out/report.md"
echo "written: $out/report.md"
[ -z "$failed" ]
