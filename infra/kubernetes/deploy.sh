#!/usr/bin/env bash
# Deployments whose runs have their executors as pods: deploy.sh IMAGE API_SERVER [further ts4s deploy flags].
# Needs PREFECT_API_URL. Memory and cores: see infra/docs/sizing.md.
set -euo pipefail
image=${1:?IMAGE, as in registry.example.com/ts4s-spark:0.1.0} server=${2:?API_SERVER, as in https://kubernetes.default.svc}
shift 2
exec ts4s deploy \
  --spark.master "k8s://${server}" \
  --spark.conf "spark.kubernetes.container.image=${image}" \
  --spark.conf spark.kubernetes.namespace=ts4s \
  --spark.conf spark.kubernetes.authenticate.serviceAccountName=ts4s \
  --spark.conf spark.kubernetes.executor.podTemplateFile=/opt/executor-pod.yaml \
  --spark.conf spark.authenticate=true \
  --spark.conf spark.network.crypto.enabled=true \
  --spark.conf spark.driver.host=ts4s-driver.ts4s.svc \
  --spark.conf spark.driver.bindAddress=0.0.0.0 \
  --spark.conf "spark.executor.instances=${EXECUTORS:-4}" \
  --spark.conf "spark.executor.cores=${EXECUTOR_CORES:-1}" \
  --spark.conf "spark.executor.memory=${EXECUTOR_MEMORY:-1g}" \
  --spark.conf "spark.executor.memoryOverhead=${WORKER_MEMORY:-3g}" \
  "$@"
