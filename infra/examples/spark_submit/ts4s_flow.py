"""Any command of ts4s as one Spark application: ``spark-submit [...] ts4s_flow.py retrain --name news ...``.

The application's master is ``spark.master``, unless a flag or TS4S_SPARK__MASTER says otherwise. The host where this runs
(in cluster mode, the driver's) has ts4s installed, or has it in the environment that ``spark.archives`` brings.
"""

import os
import sys

from flows.cli.main import main
from ts4s_core.spark.session.classic import submitted_conf

os.environ.setdefault("TS4S_SPARK__MASTER", submitted_conf()["spark.master"])
sys.exit(main())
