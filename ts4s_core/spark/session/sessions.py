"""One SparkSession from the settings: quiet, without a UI, everything it writes in one private folder."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.errors import SettingsError, SparkError
from ts4s_core.host_user import is_known, user_name
from ts4s_core.settings import SparkSettings
from ts4s_core.settings.spark_conf import DYNAMIC_ALLOCATION, by_name
from ts4s_core.spark.connect import client
from ts4s_core.spark.session import classic, cluster
from ts4s_core.spark.session.answers import answer_of
from ts4s_core.spark.session.failures import first_cause
from ts4s_core.spark.session.java import find_java, java_option
from ts4s_core.spark.session.shipping import package_folder, write_zip
from ts4s_core.spark.session.standalone import AUTHENTICATED, SECRET_VARIABLE
from ts4s_core.spark.session.start_checks import check_start, said_by_jvm

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

_LOG4J = """\
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.alwaysWriteExceptions = false
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
#: Where infra/kubernetes tells a pod its own name.
POD_VARIABLE = "POD_NAME"


@dataclass(frozen=True)
class SessionPlan:
    """What a session is built from; two equal plans are one session.

    Attributes:
        spark: master and the user's own configuration.
        threads_per_worker: cores of a task, so that Spark never runs more threads than it has slots.
        temporary: private folder for all that the session writes on this host.
    """

    spark: SparkSettings
    threads_per_worker: int
    temporary: Path

    @property
    def is_local(self) -> bool:
        """Whether tasks run in the JVM that is started here."""
        return self.spark.master.startswith("local")


def session_conf(plan: SessionPlan) -> dict[str, str]:
    """The Spark configuration of a plan: ours, under the user's where that is allowed.

    Raises:
        SettingsError: if the user's configuration contradicts what training relies on.
    """
    given = by_name(plan.spark.conf)
    fixed = {
        "spark.master": (plan.spark.master, "spark.master"),
        "spark.task.cpus": (str(plan.threads_per_worker), "train.threads_per_worker"),
    }
    problems = [
        f"spark.conf {name}={given[name]} contradicts {why}, which makes it {value}: leave it out"
        for name, (value, why) in fixed.items()
        if given.get(name, value).lower() != value.lower()
    ]
    if problems:
        raise SettingsError("; ".join(problems))
    conf = _defaults(plan) | given | {name: value for name, (value, _why) in fixed.items()}
    # Java takes the last of two equal options, so the user's own go behind ours.
    conf[_JAVA_OPTIONS] = f"{_java_options(plan)} {given.get(_JAVA_OPTIONS, '')}".strip()
    if "," in str(plan.temporary):
        raise SettingsError(f"temporary folder {plan.temporary} has a comma, at which Spark cuts lists of folders: set TMPDIR")
    return conf


def _defaults(plan: SessionPlan) -> dict[str, str]:
    conf = {
        "spark.app.name": "ts4s",
        "spark.ui.enabled": str(not plan.is_local).lower(),
        "spark.ui.killEnabled": "false",  # it asks nobody who they are
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(plan.temporary / "local"),
        "spark.sql.warehouse.dir": str(plan.temporary / "warehouse"),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.session.timeZone": "UTC",
        # Whatever the cluster's own defaults are: a barrier stage needs its executors at once, and Spark refuses it with this on.
        DYNAMIC_ALLOCATION: "false",
        # Waiting for a "better" host holds a barrier stage up, and none of our tasks has one.
        "spark.locality.wait": "0s",
    }
    if not is_known():
        conf["spark.jars.ivy"] = str(plan.temporary / "ivy")  # its default is in the home that Java takes from the system
    if plan.is_local:
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        conf["spark.authenticate"] = "true"  # by a secret of Spark's own: other users of this host reach its ports too
    elif plan.spark.master.startswith("k8s://") and os.environ.get(POD_VARIABLE):
        conf["spark.kubernetes.driver.pod.name"] = os.environ[POD_VARIABLE]  # with this pod gone, its executors go too
    elif plan.spark.secret is not None:
        # Spark wants the name there, and takes the value from the environment, where it is looked for first.
        conf |= AUTHENTICATED | {"spark.authenticate.secret": f"in {SECRET_VARIABLE}"}
    return conf


def _java_options(plan: SessionPlan) -> str:
    options = [
        f"-Dlog4j2.configurationFile={(plan.temporary / 'log4j2.properties').as_uri()}",
        java_option(f"-Djava.io.tmpdir={plan.temporary}"),
        "-XX:-UsePerfData",
    ]
    if plan.is_local:
        # Python does the work, and this JVM lives for a command: what the second compiler would gain, it takes to compile.
        options.append("-XX:TieredStopAtLevel=1")
    return " ".join(options)


def start_session(plan: SessionPlan) -> SparkSession:
    """Start Spark, join the application that spark-submit started, or become a client of a Spark Connect server.

    Raises:
        SettingsError: if ``spark.conf`` contradicts what training relies on.
        SparkError: if there is no Java, or Spark does not start.
    """
    if plan.spark.master.startswith(client.SCHEME):
        return _connected(plan)
    conf = session_conf(plan)
    for folder in (plan.temporary / "local", plan.temporary / "warehouse"):
        folder.mkdir(parents=True, exist_ok=True)
    (plan.temporary / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
    if plan.spark.secret is not None:
        os.environ[SECRET_VARIABLE] = plan.spark.secret.get_secret_value()
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    classic.abandon_dead_jvm()
    if not submitted:
        check_start(conf, os.environ)
        os.environ.update(find_java().environment(os.environ))
    python = conf.pop("spark.pyspark.python", None) or os.environ.get("PYSPARK_PYTHON") or sys.executable
    os.environ.update({"PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": sys.executable})
    from pyspark.sql import SparkSession

    settled = classic.submitted_conf()
    if not submitted and not is_known():
        classic.log_in(conf, user_name())
    builder = SparkSession.builder
    for name, value in conf.items():
        if name not in settled:
            builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
        if not cluster.is_local(session):
            _ship(session, plan.temporary)
    except Exception as exc:
        cause = first_cause(exc)
        if "JAVA_GATEWAY_EXITED" in str(exc) and (line := said_by_jvm(conf)):
            cause = f"the JVM ended with: {line}"
        raise SparkError(
            f"Spark did not start for spark.master {plan.spark.master}: {cause}. "
            "Check the master's address and spark.conf, or use --spark.master local[N]"
        ) from exc
    classic.watch(session)
    logger.info("%s", describe_session(session))
    return session


def _connected(plan: SessionPlan) -> SparkSession:
    session = client.connect(plan.spark, by_name(plan.spark.conf))
    _ship(session, plan.temporary)
    cpus = cluster.task_cpus(session)
    if cpus < plan.threads_per_worker:
        logger.warning(
            "tasks of %s have %d cores (spark.task.cpus), train.threads_per_worker is %d: workers share cores. "
            "Start the server with spark.task.cpus=%d",
            plan.spark.master,
            cpus,
            plan.threads_per_worker,
            plan.threads_per_worker,
        )
    logger.info("Spark Connect session %s at %s", cluster.application_of(session), plan.spark.master)
    return session


def describe_session(session: SparkSession) -> str:
    """Application and UI, as a line for the run's log (in Prefect too, where the address is a link)."""
    shown = classic.ui_address(session) or "off, --spark.conf spark.ui.enabled=true turns it on"
    return f"Spark application {classic.application_id(session)} on {cluster.master_of(session)}; its UI: {shown}"


def _ship(session: SparkSession, temporary: Path) -> None:
    package = package_folder()
    if package is not None:
        cluster.send_code(session, write_zip(package, temporary / "ts4s_core.zip"))


class Sessions:
    """Hands out the session of a program: started at the first use, kept, started again if its JVM died."""

    def __init__(self) -> None:
        self._plan: SessionPlan | None = None
        self._session: SparkSession | None = None

    def get(self, plan: SessionPlan) -> SparkSession:
        """The session of a plan.

        Raises:
            SettingsError: as :func:`start_session`.
            SparkError: as :func:`start_session`.
        """
        if self._session is not None and not _is_alive(self._session):
            if not cluster.is_connect(self._session):
                classic.abandon_dead_jvm(assume_dead=True)
            self._session = None
        elif plan != self._plan:
            self.stop()
        if self._session is None:
            self._session = start_session(plan)
            self._plan = plan
        return self._session

    def stop(self) -> None:
        """Stop the session if there is one."""
        session, self._session = self._session, None
        if session is not None and _is_alive(session):
            session.stop()


def _is_alive(session: SparkSession) -> bool:
    if cluster.is_connect(session):
        return answer_of(lambda: client.is_alive(session), False)
    return classic.is_alive(session)
