"""Where a runner and the master meet: folders, broker, result store and limits, read from the environment."""

import os
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from runner import env, filebroker
from runner.jobs import Limits

QUEUES = ("celery", "H", "L")
"""The work queues: data preparation, folds of high and of low priority."""

MASTER_QUEUE = "master_periodic"
"""The master's own queue: results, and the periodic mending."""

WORK_EXCHANGE, RESULT_EXCHANGE = "datarun", "datarun.results"
"""The exchanges that lead to the work queues and to the master's queue."""

MAX_HARD_LIMIT = 86_400
"""Seconds: RabbitMQ takes a message back that is unacknowledged for longer, so its limit stands above this one."""

EXIT_REFUSED = 78
"""The exit code (EX_CONFIG of sysexits.h) of a runner that can't run here: starting it again does not help."""

NUMERIC_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES")
"""Variables that choose how numpy and its libraries compute, to the last bit."""

_OWN_VARIABLES = ("DATARUN_", "DR_", "USER_PSWD")
"""How the names of datarun's own settings and secrets begin."""

_CHECKOUT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """Where the embedded default keeps its database, queue, data and submissions."""
    return env.folder("DATARUN_HOME", _CHECKOUT / ".datarun")


def dir_data() -> Path:
    return env.folder("DIR_DATA", home() / "data")


def dir_submission() -> Path:
    return env.folder("DIR_SUBMISSION", home() / "submission")


def dir_large() -> Path:
    """Where indices and predictions travel that are too large for a message: on the shared disk."""
    return dir_submission() / ".large"


def share_marker() -> Path | None:
    """A file on the shared disk by which a runner knows that the disk is there."""
    return env.folder("DATARUN_SHARE_MARKER", Path()) if env.is_set("DATARUN_SHARE_MARKER") else None


def has_broker() -> bool:
    """Whether a RabbitMQ is configured; otherwise the queues are files below home()."""
    return env.is_set("DATARUN_BROKER_URL") or env.is_set("RMQ_VHOST")


def broker_url() -> str:
    """The RabbitMQ of the manual's variables, or DATARUN_BROKER_URL where port, user or TLS differ from them."""
    if not has_broker():
        return f"{filebroker.NAME}://localhost"
    if env.is_set("DATARUN_BROKER_URL"):
        return env.text("DATARUN_BROKER_URL")
    user, password = quote(env.text("DR_DATABASE_USER"), ""), quote(env.text("DR_DATABASE_PASSWORD"), "")
    return f"amqp://{user}:{password}@{env.text('IP_MASTER')}/{quote(env.text('RMQ_VHOST'), '')}"


def broker_user() -> str:
    """Whom this process is to RabbitMQ; empty where the queues are files."""
    return unquote(urlsplit(broker_url()).username or "guest") if has_broker() else ""


def result_url() -> str:
    """Where Celery keeps the state of tasks: the master's Redis, or files below home()."""
    if env.is_set("DATARUN_RESULT_URL"):
        return env.text("DATARUN_RESULT_URL")
    if not has_broker():
        return f"file://{home() / 'results'}"
    return f"redis://:{quote(env.text('DR_DATABASE_PASSWORD'), '')}@{env.text('IP_MASTER')}:6379/0"


def broker_tls() -> dict[str, Any] | None:
    """What py-amqp is told of an amqps:// address: it looks at the host name only where it is given one."""
    address = urlsplit(broker_url())
    if address.scheme != "amqps":
        return None
    return {"ca_certs": _ca_file(), "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": address.hostname}


def result_tls() -> dict[str, Any] | None:
    """What redis-py is told of a rediss:// address, by Celery and by Django's cache."""
    if urlsplit(result_url()).scheme != "rediss":
        return None
    return {"ssl_ca_certs": _ca_file(), "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def _ca_file() -> str | None:
    """The authority of the cluster's certificates; None: those that the machine trusts."""
    if not env.is_set("DATARUN_CA_FILE"):
        return None
    path = env.folder("DATARUN_CA_FILE", Path())
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # SSLError is one
        raise env.ConfigurationError(
            f"DATARUN_CA_FILE names {path}: it must be a readable file with certificates in PEM format ({error})"
        ) from None
    return str(path)


def limits() -> Limits:
    """The limits of one fold; the hard limit leaves the soft one time to speak."""
    soft, hard = env.number("DR_SOFT_TIME_LIMIT", 300), env.number("DR_HARD_TIME_LIMIT", 360)
    if soft >= hard:
        raise env.ConfigurationError(f"DR_SOFT_TIME_LIMIT ({soft:g} s) must be below DR_HARD_TIME_LIMIT ({hard:g} s)")
    if hard > MAX_HARD_LIMIT:
        raise env.ConfigurationError(f"DR_HARD_TIME_LIMIT ({hard:g} s) must be at most {MAX_HARD_LIMIT} s, a day")
    return Limits(
        soft,
        hard,
        memory=env.whole("DR_MEMORY_LIMIT", Limits.memory),
        scratch=env.whole("DR_SCRATCH_LIMIT", Limits.scratch),
        processes=env.whole("DR_PROCESS_LIMIT", Limits.processes),
    )


def fold_variables() -> dict[str, str]:
    """The part of this process's environment that folds get, so that a fold computes as the host does.

    NUMERIC_VARIABLES as far as they are set, and the variables that DATARUN_FOLD_VARIABLES names, comma-separated.
    Raises ConfigurationError for a name that is not set, or is a setting of datarun.
    """
    named = [name.strip() for name in env.text("DATARUN_FOLD_VARIABLES", "").split(",") if name.strip()]
    for name in named:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise env.ConfigurationError(
                f"DATARUN_FOLD_VARIABLES has {name!r}: it must be names of variables, comma-separated, without values"
            )
        if name.startswith(_OWN_VARIABLES):
            raise env.ConfigurationError(
                f"DATARUN_FOLD_VARIABLES names {name}: a submission must not see datarun's settings and secrets"
            )
        if name not in os.environ:
            raise env.ConfigurationError(f"DATARUN_FOLD_VARIABLES names {name}, which is not set: set or omit it")
    return {name: os.environ[name] for name in (*NUMERIC_VARIABLES, *named) if name in os.environ}


def max_data_bytes() -> int:
    """What a data set, or a fold's indices, may unpack to."""
    return env.whole("DATARUN_MAX_DATA_BYTES", 512 << 20)


def max_payload_bytes() -> int:
    """What a file of indices or predictions may have: random numbers as large as the largest data set, and base64."""
    return 2 * max_data_bytes()


def local_data() -> Path | None:
    """Where a runner keeps copies of data sets; None: they are read from the shared disk."""
    return env.folder("DATARUN_LOCAL_DATA", Path()) if env.is_set("DATARUN_LOCAL_DATA") else None


def local_data_bytes() -> int:
    """What the copies may take together."""
    return env.whole("DATARUN_LOCAL_DATA_BYTES", 10 << 30)


def spool() -> Path:
    """Where a runner keeps what it has not sent yet: on its own disk."""
    return env.folder("DATARUN_SPOOL", home() / "spool")


def slots() -> int:
    """How many folds run at once here: one a core, unless the worker was told otherwise."""
    return env.whole("DATARUN_SLOTS", os.cpu_count() or 1)


def set_slots(count: int) -> None:
    """From the worker's command line (`-c`), which wins over the environment."""
    os.environ["DATARUN_SLOTS"] = str(count)
