"""One of OpenStack's services at a port of this machine: serve.py NAME STATE PORT, or `serve.py neutron-tables STATE`.

nova and cinder are each one process of what elsewhere are several: then messages in memory (fake://) are enough.
"""

import os
import sys

import waitress

name, state, *port = sys.argv[1:]
etc = f"{state}/etc"
os.environ |= {f"OS_{part}_CONFIG_DIR": etc for part in ("KEYSTONE", "GLANCE", "PLACEMENT", "NOVA", "NEUTRON")}
os.environ["OS_NOVA_CONFIG_FILES"] = f"{sys.prefix}/etc/nova/api-paste.ini;nova.conf"
os.environ["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf"
os.environ |= {f"OS_{part}_DISABLE_EVENTLET_PATCHING": "true" for part in ("NOVA", "CINDER")}
sys.argv = [name]  # the services read it, too


def keystone():
    from keystone.wsgi.api import application

    return application


def glance():
    from glance.wsgi.api import application

    return application


def placement():
    from placement.wsgi.api import application

    return application


def neutron():
    from neutron.wsgi.api import application

    return application


def nova():
    # First, as it decides for threads.
    from nova.wsgi.osapi_compute import application  # isort: skip

    import fakehost  # noqa: F401  # before nova looks for it
    import nova.conf
    import os_brick
    import os_vif
    from nova import context, objects, service
    from nova.compute.rpcapi import RPC_TOPIC as COMPUTE
    from nova.compute.rpcapi import RPC_TOPIC_ALT as COMPUTE_ALT
    from nova.conductor.rpcapi import RPC_TOPIC as CONDUCTOR
    from nova.objects import host_mapping
    from nova.scheduler.rpcapi import RPC_TOPIC as SCHEDULER

    os_vif.initialize()
    os_brick.setup(nova.conf.CONF)
    objects.Service.enable_min_version_cache()
    topics = {"conductor": (CONDUCTOR, None), "scheduler": (SCHEDULER, None), "compute": (COMPUTE, COMPUTE_ALT)}
    for part, (topic, other) in topics.items():
        parts.append(service.Service.create(binary=f"nova-{part}", topic=topic, topic_alt=other))
        parts[-1].start()
    host_mapping.discover_hosts(context.get_admin_context())  # not only a minute later
    return application


def cinder():
    from cinder import monkey_patch

    monkey_patch.patch()
    sys.argv += ["--config-file", f"{etc}/cinder.conf"]
    import os_brick
    from cinder import service
    from cinder.wsgi.api import application
    from oslo_config import cfg

    cfg.CONF.register_opt(cfg.StrOpt("backend_host"), group="fake")
    os_brick.setup(cfg.CONF)
    volume = {"host": f"{cfg.CONF.host}@fake", "service_name": "fake", "coordination": True}
    for part, arguments in ("scheduler", {}), ("volume", volume):
        parts.append(service.Service.create(binary=f"cinder-{part}", **arguments))
        parts[-1].start()
    return application


def neutron_tables():
    """All at once, as neutron's own tests do: its migrations take much longer."""
    import sqlalchemy
    from neutron.common import config
    from neutron.db.migration.models import head  # noqa: F401  # fills the metadata
    from neutron_lib.db import model_base
    from oslo_config import cfg
    from oslo_db import options

    options.set_defaults(cfg.CONF)
    config.register_common_config_options()
    cfg.CONF(["--config-file", f"{etc}/neutron.conf"], project="neutron")
    model_base.BASEV2.metadata.create_all(sqlalchemy.create_engine(cfg.CONF.database.connection))


parts = []  # kept alive
if name == "neutron-tables":
    neutron_tables()
else:
    services = {function.__name__: function for function in (keystone, glance, placement, neutron, nova, cinder)}
    application = services[name]()
    waitress.serve(
        application,
        host="127.0.0.1",
        port=int(port[0]),
        threads=8,
        connection_limit=500,  # the services keep theirs open, and at 100 none gets in for half a minute
        ident=name,
        max_request_body_size=1 << 34,
        clear_untrusted_proxy_headers=True,
    )
