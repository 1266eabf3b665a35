#!/bin/bash
# A quarter of an hour of one GPU, asked everything that a machine without one cannot answer; results as one page.
#
#   benchmarks/gpu_first_hour.sh [PEER/train_gpt.py]      # PEER: a checkout of openai/parameter-golf, optional
#
# Writes docs/results/gpu_first_hour.md, and the whole output of every part to reports/gpu_first_hour/. A part that fails
# or takes too long is told on the page, and the next one runs.
set -u
cd "$(dirname "$0")/.." || exit 1
peer=${1:-}
logs=reports/gpu_first_hour
page=docs/results/gpu_first_hour.md
if [ -x .venv/bin/python ]; then PATH=$PWD/.venv/bin:$PATH; fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu_first_hour: torch sees no GPU here")' || exit 1
mkdir -p "$logs"

{
  echo "# The first minutes on a GPU"
  echo
  echo "Made by \`benchmarks/gpu_first_hour.sh\` at commit $(git rev-parse --short HEAD), $(date -u +%F)."
  echo
  echo '```'
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
  python -m pip list 2> /dev/null | grep -iE '^(torch|triton|flash-linear-attention|fla-core) '
  echo '```'
} > "$page"

part() {  # NAME SECONDS LINES COMMAND...: run it, its last LINES onto the page
  local name=$1 limit=$2 lines=$3 begin=$SECONDS code
  shift 3
  echo "== $name (at most $limit s)"
  timeout "$limit" "$@" > "$logs/$name.log" 2>&1
  code=$?
  {
    echo
    echo "## $name"
    echo
    echo "\`$*\`: exit code $code after $((SECONDS - begin)) s"
    echo
    echo '```'
    tail -n "$lines" "$logs/$name.log"
    echo '```'
  } >> "$page"
}

part kernels 120 8 python -m benchmarks.scale kernels
part steps 400 155 python -m benchmarks.gpu_steps --preset h100x8_10min --preset record_h100x8_10min --profile
part beside_the_peer 240 12 python -m benchmarks.train_speed --steps 12 --flat-only ${peer:+--peer "$peer"} --out "$logs/peer.json"
part delta_rule 60 12 python -m benchmarks.gdn --device cuda --tokens 65536 --contexts 1024,2048
part scoring 120 8 python -m benchmarks.scale score --tokens 1000000
part scoring_hybrid 60 8 python -m benchmarks.scale score --tokens 200000 --preset gdn_hybrid_h100x8_10min
part rehearsal 400 30 golf rehearse --preset record_h100x8_10min
part rehearsal_hybrid 300 30 golf rehearse --preset gdn_hybrid_h100x8_10min
echo "wrote $page"
