"""compose.yaml, the Dockerfiles and the Kubernetes manifests, as far as they can be checked without an engine or a cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.options import parse
from flows.cli.table import find_command
from ts4s_core.settings import SparkSettings, load_settings
from ts4s_core.spark.session.sessions import POD_VARIABLE, SessionPlan, session_conf

ROOT = Path(__file__).parents[3]
#: Which services know which secret, by the variable that it is in.
AUTHENTICATION = {
    "PREFECT_SERVER_API_AUTH_STRING": {"prefect-server"},
    "PREFECT_API_AUTH_STRING": {"prefect-server", "deploy", "prefect-worker"},
    "_SPARK_AUTH_SECRET": {"spark-master", "spark-worker"},
    "TS4S_SPARK__SECRET": {"prefect-worker"},
}
INFRA = ROOT / "infra"
DOCKERFILES = sorted(INFRA.rglob("Dockerfile"))
SCRIPTS = sorted(INFRA.rglob("*.sh"))
SERVICE_KEYS = {
    *("image", "build", "command", "entrypoint", "environment", "ports", "volumes", "depends_on", "healthcheck", "restart"),
    *("hostname", "deploy", "networks", "user", "init", "secrets", "expose"),
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
INSTRUCTIONS = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "ENTRYPOINT", "CMD", "LABEL", "EXPOSE", "HEALTHCHECK"}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_services_are_whole() -> None:
    document = compose()
    assert set(document) == {"name", "x-ts4s", "x-spark-options", "services", "volumes"}
    services = document["services"]
    wanted = {"database", "prefect-server", "s3", "spark-master", "spark-worker", "deploy", "prefect-worker"}
    assert set(services) == wanted
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", service["image"]), f"{name}: a pinned image"
        for other, waits in service.get("depends_on", {}).items():
            assert waits["condition"] in CONDITIONS, name
            assert waits["condition"] != "service_healthy" or "healthcheck" in services[other], f"{name} waits for {other}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: published beyond this machine"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in document["volumes"], name
        if "build" in service:
            context = (INFRA / "compose" / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file(), name


def test_secrets_come_from_outside() -> None:
    text = (INFRA / "compose" / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == {"POSTGRES_PASSWORD", "PREFECT_LOGIN", "SPARK_SECRET", "STORE_KEY", "STORE_SECRET"}
    example = (INFRA / "compose" / "example.env").read_text(encoding="utf-8").splitlines()
    assert {line for line in example if not line.startswith("#")} == {f"{name}=" for name in asked}
    environments = {name: service.get("environment", {}) for name, service in compose()["services"].items()}
    assert [name for name, given in environments.items() if "TS4S_STORAGE__SECRET" in given] == ["prefect-worker"]
    knows = {variable: {name for name, given in environments.items() if variable in given} for variable in AUTHENTICATION}
    assert knows == AUTHENTICATION
    for service in ("spark-master", "spark-worker"):
        for option in ("spark.authenticate=true", "spark.network.crypto.enabled=true", "spark.master.rest.enabled=false"):
            assert f"-D{option}" in environments[service]["SPARK_DAEMON_JAVA_OPTS"]
    commands = json.dumps([service.get("command") for service in compose()["services"].values()])
    assert [name for name in asked if name in commands] == []


def test_every_service_has_a_limit_of_memory() -> None:
    for name, service in compose()["services"].items():
        assert re.search(r"\d+g", service["deploy"]["resources"]["limits"]["memory"]), name


def test_any_password_reaches_the_database_as_it_is(tmp_path: Path) -> None:
    """By Prefect's own settings, in a process of their own, as they read their environment once."""
    password = "a@b:c/d#e%25f g?h&i"
    given = {name: str(value) for name, value in compose()["services"]["prefect-server"]["environment"].items()}
    given = {name: password if "POSTGRES_PASSWORD" in value else value for name, value in given.items() if "DATABASE" in name}
    code = (
        "from prefect.settings import get_current_settings\nfrom sqlalchemy.engine import make_url\n"
        "url = make_url(get_current_settings().server.database.connection_url.get_secret_value())\n"
        "print(url.drivername, url.username, url.host, url.port, url.database, url.password, sep='|')"
    )
    environ = {"PATH": os.environ["PATH"], "PREFECT_HOME": str(tmp_path), **given}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"postgresql+asyncpg|prefect|database|5432|prefect|{password}"


def test_commands_are_ones_that_ts4s_has() -> None:
    services = compose()["services"]
    words = [word.replace("${MODEL_NAME:-demo}", "demo") for word in services["deploy"]["command"]]
    command, length = find_command(words[1:])
    assert command is not None
    settings = load_settings(parse(command, words[1 + length :]).settings, environ={})
    assert settings.spark.master == f"spark://{services['spark-master']['hostname']}:7077"
    assert settings.storage.endpoint_url == "http://s3:9000"
    assert f"spark.driver.host={services['prefect-worker']['hostname']}" in settings.spark.conf
    for driver in re.findall(r"postgresql\+(\w+):", json.dumps(services)):
        assert importlib.util.find_spec(driver) is not None


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_dockerfiles_follow_the_usual_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    lines = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    assert {word for word, _ in lines} <= INSTRUCTIONS  # ADD is not among them: COPY says what it does
    for word, rest in lines:
        if word == "FROM":
            assert re.search(r":\d", rest) or rest == "${BASE}", "a base image without a version"
        if word in ("CMD", "ENTRYPOINT"):
            assert isinstance(json.loads(rest), list)
        if word == "COPY" and path.parent.name == "compose":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if word == "RUN" and "pip install" in rest:
            assert rest.count("pip install") == rest.count("--no-cache-dir") == rest.count("--no-deps")
    assert [rest for word, rest in lines if word == "USER"][-1] == "ts4s", "the image runs as root"


def test_the_image_has_the_packages_of_the_project() -> None:
    text = (INFRA / "compose" / "Dockerfile").read_text(encoding="utf-8")
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    ignored = (INFRA / "compose" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for package in {name.split(".")[0] for name in packages}:
        assert f"COPY {package} {package}" in text
        assert f"!{package}" in ignored


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_end_at_the_first_failure(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)


def test_kubernetes_manifests_fit_together() -> None:
    documents = [*yaml.safe_load_all((INFRA / "kubernetes" / "ts4s.yaml").read_text(encoding="utf-8"))]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents) == 7
    for document in documents:
        assert document["apiVersion"]
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "ts4s"
    pod = by_kind["Deployment"]["spec"]["template"]
    selectors = (by_kind["Deployment"]["spec"]["selector"]["matchLabels"], by_kind["Service"]["spec"]["selector"])
    assert all(selector.items() <= pod["metadata"]["labels"].items() for selector in selectors)
    executor = yaml.safe_load((INFRA / "kubernetes" / "executor-pod.yaml").read_text(encoding="utf-8"))
    (allowed,) = by_kind["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    (expression,) = allowed["podSelector"]["matchExpressions"]
    parts = {one["metadata"]["labels"][expression["key"]] for one in (pod, executor)}
    assert parts == set(expression["values"])
    (worker,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    variables = {entry["name"]: entry for entry in worker["env"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert str(ports[worker[probe]["httpGet"]["port"]]) == variables["PREFECT_WORKER_WEBSERVER_PORT"]["value"]
    assert variables[POD_VARIABLE]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    for container in (worker, executor["spec"]["containers"][0]):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert executor["spec"]["securityContext"]["runAsNonRoot"] is True
    assert executor["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]


def test_an_executor_pod_starts_what_spark_asks_for(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    java.chmod(0o755)
    environ = {
        "PATH": os.environ["PATH"],
        "JAVA_HOME": str(tmp_path),
        "SPARK_HOME": "/spark",
        "SPARK_EXECUTOR_MEMORY": "1024m",
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@driver:7078",
        "SPARK_EXECUTOR_ID": "3",
        "SPARK_EXECUTOR_CORES": "2",
        "SPARK_APPLICATION_ID": "spark-1",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.7",
        "SPARK_EXECUTOR_POD_NAME": "ts4s-exec-3",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        **{f"SPARK_JAVA_OPT_{number}": f"-Dopt={number} a" for number in (0, 1, 2, 10)},
    }
    script = str(INFRA / "kubernetes" / "executor.sh")
    done = subprocess.run([script, "executor"], env=environ, capture_output=True, text=True, check=True, timeout=10)
    words = done.stdout.splitlines()
    assert words[:4] == [f"-Dopt={number} a" for number in (0, 1, 2, 10)]
    assert words[4:8] == ["-Xms1024m", "-Xmx1024m", "-cp", "/opt/spark/conf:/spark/jars/*"]
    assert words[words.index("--executor-id") + 1] == "3"
    other = subprocess.run([script, "echo", "a worker"], env=environ, capture_output=True, text=True, check=True, timeout=10)
    assert other.stdout == "a worker\n"


def test_deployments_on_kubernetes_have_settings_that_are_taken(tmp_path: Path) -> None:
    ts4s = tmp_path / "ts4s"
    ts4s.write_text('#!/usr/bin/env bash\nprintf "%q " "$@"\n', encoding="utf-8")
    ts4s.chmod(0o755)
    script = [
        str(INFRA / "kubernetes" / "deploy.sh"),
        "registry/ts4s-spark:0.1.0",
        "https://kubernetes.default.svc",
        "--name",
        "news",
    ]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=True, timeout=10)
    words = shlex.split(done.stdout)
    command, length = find_command(words)
    assert command is not None
    settings = load_settings(parse(command, words[length:]).settings, environ={})
    assert settings.spark.master == "k8s://https://kubernetes.default.svc"
    assert "spark.kubernetes.container.image=registry/ts4s-spark:0.1.0" in settings.spark.conf
    (template,) = (pair.partition("=")[2] for pair in settings.spark.conf if "podTemplateFile" in pair)
    assert f"executor-pod.yaml {template}\n" in (INFRA / "kubernetes" / "Dockerfile").read_text(encoding="utf-8")


def test_the_driver_s_pod_owns_its_executors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD_VARIABLE, "ts4s-worker-7d9f")
    for master, owner in (("k8s://https://kubernetes.default.svc", "ts4s-worker-7d9f"), ("local[1]", None)):
        conf = session_conf(SessionPlan(SparkSettings(master=master), 1, tmp_path))
        assert conf.get("spark.kubernetes.driver.pod.name") == owner


def test_whatever_is_installed_is_pinned_by_hash() -> None:
    joined = (INFRA / "requirements.lock").read_text(encoding="utf-8").replace(" \\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 150
    wrong = [line for line in lines if not re.fullmatch(r"[\w.\[\]-]+==[\w.+!-]+( +--hash=sha256:[0-9a-f]{64})+", line)]
    assert wrong == []
    for path in (ROOT / "Makefile", INFRA / "compose" / "Dockerfile", INFRA / "emr" / "bootstrap.sh"):
        (install,) = (
            line for line in path.read_text(encoding="utf-8").splitlines() if "requirements.lock" in line and "pip" in line
        )
        assert "--require-hashes" in install, path
