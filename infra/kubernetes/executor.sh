#!/usr/bin/env bash
# Entry point of a pod. Spark calls it with "executor" and tells the rest in the environment; any other command is run as it is.
set -euo pipefail
if [ "${1:-}" != executor ]; then
  exec "$@"
fi
options=()
while IFS= read -r name; do
  options+=("${!name}")
done < <(compgen -e | grep -E '^SPARK_JAVA_OPT_[0-9]+$' | sort -t _ -k 4 -n)
exec "${JAVA_HOME:?}/bin/java" "${options[@]}" \
  "-Xms${SPARK_EXECUTOR_MEMORY:?}" "-Xmx${SPARK_EXECUTOR_MEMORY}" \
  -cp "${SPARK_CLASSPATH:+${SPARK_CLASSPATH}:}${SPARK_CONF_DIR:-/opt/spark/conf}:${SPARK_HOME:?}/jars/*" \
  org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
  --driver-url "${SPARK_DRIVER_URL:?}" \
  --executor-id "${SPARK_EXECUTOR_ID:?}" \
  --cores "${SPARK_EXECUTOR_CORES:?}" \
  --app-id "${SPARK_APPLICATION_ID:?}" \
  --hostname "${SPARK_EXECUTOR_POD_IP:?}" \
  --resourceProfileId "${SPARK_RESOURCE_PROFILE_ID:-0}" \
  --podName "${SPARK_EXECUTOR_POD_NAME:?}"
