#!/usr/bin/env bash
# EMR bootstrap action, on every node: Python 3.11 and ts4s in /opt/ts4s. Argument: s3:// folder with requirements.lock and the wheel.
set -euo pipefail
source=${1:?s3://BUCKET/PREFIX with requirements.lock and ts4s-*.whl}
sudo dnf install -y -q python3.11 python3.11-pip
sudo install -d -o "$(id -un)" /opt/ts4s /opt/ts4s/jobs /opt/ts4s/wheels
python3.11 -m venv /opt/ts4s/venv
aws s3 cp --only-show-errors "${source%/}/requirements.lock" /opt/ts4s/requirements.lock
aws s3 cp --only-show-errors --recursive --exclude '*' --include 'ts4s-*.whl' "${source%/}/" /opt/ts4s/wheels/
aws s3 cp --only-show-errors --recursive --exclude '*' --include '*.sh' --include '*.py' "${source%/}/" /opt/ts4s/
/opt/ts4s/venv/bin/python -m pip install --quiet --no-cache-dir --require-hashes --no-deps -r /opt/ts4s/requirements.lock
/opt/ts4s/venv/bin/python -m pip install --quiet --no-cache-dir --no-deps /opt/ts4s/wheels/ts4s-*.whl
chmod +x /opt/ts4s/*.sh
