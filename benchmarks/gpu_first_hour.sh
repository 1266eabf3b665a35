#!/bin/bash
# One GPU for a short time, asked everything that a machine without one cannot answer; results as one page.
#
#   benchmarks/gpu_first_hour.sh [--short] [PEER/train_gpt.py]    # PEER: a checkout of openai/parameter-golf, optional
#
# What matters most comes first. Every part has a limit of its own: all of them take 45 minutes at most, with --short the
# first five 10 minutes. Writes docs/results/gpu_first_hour.md as it goes, and the whole output of every part to
# reports/gpu_first_hour/. A part that fails or is cut off is told on the page, and the next one runs; the exit code is
# then 1 and the last line names it.
set -u
cd "$(dirname "$0")/.." || exit 1
short=
if [ "${1:-}" = --short ]; then short=yes; shift; fi
peer=${1:-}
if [ -n "$peer" ] && [ ! -f "$peer" ]; then
  echo "gpu_first_hour: no file $peer; expected [--short] [PEER/train_gpt.py]" >&2
  exit 2
fi
logs=reports/gpu_first_hour
page=docs/results/gpu_first_hour.md
failed=
if [ -x .venv/bin/python ]; then PATH=$PWD/.venv/bin:$PATH; fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 # a part that is cut off has said what it had to say

python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu_first_hour: torch sees no GPU here")' || exit 1
mkdir -p "$logs" || exit 1

{
  echo "# The first minutes on a GPU"
  echo
  echo "Made by \`benchmarks/gpu_first_hour.sh${short:+ --short}\` at commit $(git rev-parse --short HEAD), $(date -u +%F)."
  echo
  echo '```'
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
  python -m pip list 2> /dev/null | grep -iE '^(torch|triton|flash-linear-attention|fla-core) '
  echo '```'
} > "$page" || exit 1

part() {  # NAME SECONDS LINES COMMAND...: run it, its last LINES onto the page
  local name=$1 limit=$2 lines=$3 begin=$SECONDS code outcome
  shift 3
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" > "$logs/$name.log" 2>&1
  code=$?
  outcome="exit code $code after $((SECONDS - begin)) s"
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then outcome="$outcome, cut off at $limit s"; fi
  if [ "$code" != 0 ]; then failed="$failed $name"; fi
  echo "   $outcome"
  {
    echo
    echo "## $name"
    echo
    echo "\`$*\`: $outcome"
    echo
    echo '```'
    tail -n "$lines" "$logs/$name.log"
    echo '```'
  } >> "$page"
}

steps() {  # NAME SECONDS LINES PRESET OPTION...: of one preset
  local name=$1 limit=$2 lines=$3
  shift 3
  part "$name" "$limit" "$lines" python -m benchmarks.gpu_steps --preset "$@"
}

part kernels 60 8 python -m benchmarks.scale kernels
steps steps 90 4 h100x8_10min --depth 4
steps steps_record 90 4 record_h100x8_10min --depth 3
part scoring 60 8 python -m benchmarks.scale score --tokens 1000000
part rehearsal 250 30 golf rehearse --preset record_h100x8_10min

if [ -z "$short" ]; then
  part rehearsal_with_ttt 400 30 golf rehearse --preset h100x8_10min evaluate.ttt.enabled=true
  part ttt 90 4 python -m benchmarks.scale score --mode ttt --tokens 20000
  steps attention_cudnn 90 4 h100x8_10min --depth 4 --sdpa cudnn
  steps attention_flash 90 4 h100x8_10min --depth 4 --sdpa flash
  # other weights than the preset's, so it only tells what the width of a head costs
  steps attention_heads_of_64 90 4 h100x8_10min --depth 4 model.heads=13 model.kv_heads=13
  steps steps_profiled 240 100 h100x8_10min --profile
  steps steps_record_profiled 200 70 record_h100x8_10min --profile
  steps steps_hybrid 180 40 gdn_hybrid_h100x8_10min --profile # with train.allow_slow, as all that gpu_steps measures
  part beside_the_peer 240 12 python -m benchmarks.train_speed --steps 12 --flat-only ${peer:+--peer "$peer"} --out "$logs/peer.json"
  part delta_rule 60 12 python -m benchmarks.gdn --device cuda --tokens 65536 --contexts 1024,2048
  part scoring_hybrid 60 8 python -m benchmarks.scale score --tokens 200000 --preset gdn_hybrid_h100x8_10min
  # its branches are worth seeing without flash-linear-attention too; `kernels` says whether that is there
  part rehearsal_hybrid 300 30 golf rehearse --preset gdn_hybrid_h100x8_10min train.allow_slow=true
fi

echo "wrote $page"
if [ -n "$failed" ]; then
  echo "gpu_first_hour: failed or cut off:$failed" >&2
  exit 1
fi
