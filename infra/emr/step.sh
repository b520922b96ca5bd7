#!/usr/bin/env bash
# One step of a chain, on the primary node: step.sh STEP NAME STORE [flags of ts4s STEP].
# export and import need no Spark; prepare, train and evaluate are program.py under spark-submit. Keys: the cluster's own role.
set -euo pipefail
step=${1:?STEP} name=${2:?NAME} store=${3:?STORE, as in s3://BUCKET/ts4s}
shift 3
bin=${PYTHON_BIN:-/opt/ts4s/venv/bin}
flags=(--name "$name" --storage.uri "$store" "$@")
case $step in
  export | import)
    exec "$bin/ts4s" "$step" "${flags[@]}" --spark.master none --json
    ;;
  prepare | train | evaluate)
    job=$(mktemp)
    trap 'rm -f "$job"' EXIT
    "$bin/python" "$(dirname "$0")/job.py" "$step" "${flags[@]}" --spark.master "${SPARK_MASTER:-yarn}" > "$job"
    export HADOOP_CONF_DIR=${HADOOP_CONF_DIR:-/etc/hadoop/conf}
    export PYSPARK_PYTHON=$bin/python PYSPARK_DRIVER_PYTHON=$bin/python
    program=$("$bin/python" -c 'import importlib.util; print(importlib.util.find_spec("ts4s_core.spark.driver.program").origin)')
    "$bin/spark-submit" --master "${SPARK_MASTER:-yarn}" --deploy-mode client \
      --conf spark.dynamicAllocation.enabled=false \
      --conf "spark.executor.instances=${EXECUTORS:-4}" \
      --conf "spark.executor.cores=${EXECUTOR_CORES:-1}" \
      --conf "spark.executor.memory=${EXECUTOR_MEMORY:-1g}" \
      --conf "spark.executor.memoryOverhead=${WORKER_MEMORY:-3g}" \
      "$program" --job "$job"
    ;;
  *)
    echo "error: step $step is not valid: expected export, import, prepare, train or evaluate" >&2
    exit 2
    ;;
esac
