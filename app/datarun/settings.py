"""Django's settings, from the environment (docs/configuration.md): one file, no local overrides.

Three states: the embedded default (nothing set: SQLite, queues in files), the services (PostgreSQL, RabbitMQ
and Redis, all three), and on either DR_WORKING_ENV=PROD, which turns every safe setting on.
"""

import secrets
import stat
import sys
from pathlib import Path
from typing import Any

from runner import config, env

PROD = env.choice("DR_WORKING_ENV", "DEV", ("DEV", "PROD")) == "PROD"
DEBUG = False  # an error page must not show secrets, in DEV neither; the log has the traceback
HAS_DATABASE = env.is_set("DR_DATABASE_NAME")

if HAS_DATABASE != config.has_broker():
    missing = "no RabbitMQ (RMQ_VHOST or DATARUN_BROKER_URL)" if HAS_DATABASE else "no PostgreSQL (DR_DATABASE_NAME)"
    raise env.ConfigurationError(
        f"the environment names {'a PostgreSQL' if HAS_DATABASE else 'a RabbitMQ'} but {missing}: "
        "set the services together, or none of them for the embedded default"
    )


def _own_home() -> None:
    """Make DATARUN_HOME, readable by its owner alone: test labels, password hashes and tokens are in it."""
    home = config.home()
    home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700, exist_ok=True)
    if (was := stat.S_IMODE(home.stat().st_mode)) & 0o077:
        try:
            home.chmod(0o700)
        except PermissionError as error:
            raise env.ConfigurationError(
                f"other users of this machine can read DATARUN_HOME, {home} (mode {was:04o}), and it is not yours: "
                "have its owner close it (chmod 700), or set DATARUN_HOME to a folder of your own"
            ) from error
        print(f"datarun: {home} was open to other users (mode {was:04o}): its mode is 0700 now", file=sys.stderr)


if not (PROD and HAS_DATABASE):  # the services keep nothing there, and in production others make it
    _own_home()


def _development_key() -> str:
    """A key of this installation's own, made once; production gives its own."""
    path = config.home() / "secret_key"
    if not path.exists():
        fresh = path.with_name(f"secret_key.{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(50))
        try:
            path.hardlink_to(fresh)  # unlike a rename, fails where another process was first
        except FileExistsError:
            pass
        fresh.unlink()
    return path.read_text()


SECRET_KEY = env.text("DR_SECRET_KEY") if PROD else env.text("DR_SECRET_KEY", "") or _development_key()
if PROD and not env.is_set("DR_ALLOWED_HOSTS"):
    raise env.ConfigurationError("DR_ALLOWED_HOSTS is not set: name the hosts that clients call, comma-separated")
ALLOWED_HOSTS = [host.strip() for host in env.text("DR_ALLOWED_HOSTS", "*").split(",")]

INSTALLED_APPS = [
    "runapp",  # first: its templates replace those of the others
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "runapp.middleware.normalise_path",
    "runapp.middleware.bound_body",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ROOT_URLCONF = "datarun.urls"
WSGI_APPLICATION = "datarun.wsgi.application"
TEST_RUNNER = "datarun.testing.PytestRunner"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES: dict[str, dict[str, Any]]
CACHES: dict[str, dict[str, Any]]
if HAS_DATABASE:
    DATABASES = {
        "default": {
            "ENGINE": "datarun.postgresql",
            "NAME": env.text("DR_DATABASE_NAME"),
            "USER": env.text("DR_DATABASE_USER"),
            "PASSWORD": env.text("DR_DATABASE_PASSWORD"),
            "HOST": env.text("DR_DATABASE_HOST", "localhost"),
            "PORT": env.whole("DR_DATABASE_PORT", 5432),
            "CONN_MAX_AGE": 600,
            "CONN_HEALTH_CHECKS": True,
        }
    }
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": config.result_url(),
            # In seconds: a login asks four times, and a frozen Redis holds it, and a thread, for that long each.
            "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 2} | (config.result_tls() or {}),
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": config.home() / "datarun.sqlite3",
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # The web server and the master's worker write at the same time: take the lock when the
                # transaction begins, so that waiting for it works.
                "transaction_mode": "IMMEDIATE",
                "timeout": 30,
                "init_command": "PRAGMA journal_mode=WAL;",
            },
        }
    }
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

AUTHENTICATION_BACKENDS = ["runapp.authentication.RememberingBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_REDIRECT_URL = "/docs/"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "runapp.authentication.ThrottledBasicAuthentication",
        "rest_framework.authentication.SessionAuthentication",
        "rest_framework.authentication.TokenAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": [
        "runapp.parsers.SafeJSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "runapp.errors.exception_handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    # Behind the master's web server the caller's address is the last of X-Forwarded-For.
    "NUM_PROXIES": 1 if PROD else 0,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "datarun",
    "DESCRIPTION": "Train and test machine-learning submissions on cross-validation folds.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
STATIC_URL = "/static/"
STATIC_ROOT = env.folder("DR_STATIC_ROOT", config.home() / "static")
WHITENOISE_USE_FINDERS = not PROD
if not PROD:
    STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns of a missing one

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

if PROD:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$"]  # load balancers ask by http, and know no redirect
    SECURE_HSTS_SECONDS = 31536000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

DIR_DATA: Path = config.dir_data()
DIR_SUBMISSION: Path = config.dir_submission()
MAX_DATA_BYTES = config.max_data_bytes()
# What a request may have: base64 of files that do not compress, and their envelope.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_DATA_BYTES * 4 // 3 + (1 << 20)
MAX_SUBMISSION_BYTES = env.whole("DATARUN_MAX_SUBMISSION_BYTES", 16 << 20)
MAX_ATTEMPTS = 3
"""How often a fold is tried where the infrastructure failed it."""
MAX_WAITERS = env.count("DATARUN_MAX_WAITERS", 4)
"""How many requests of a process may wait for the end of a fold at once: half of the threads that it has."""
WEBHOOK_ALLOW = env.networks("DATARUN_WEBHOOK_ALLOW")
"""Networks that a webhook may be in although they are not public."""
# Limits of a user; 0: none.
MAX_WAITING = env.count("DATARUN_MAX_WAITING", 100_000)
MAX_RUNNING = env.count("DATARUN_MAX_RUNNING", 0)
MAX_BYTES = env.count("DATARUN_MAX_BYTES", 0)
MIN_FREE_BYTES = env.count("DATARUN_MIN_FREE_BYTES", 1 << 30)
"""What must be free on a disk for anything new to be accepted; 0: whatever there is."""
