"""The Celery application of a runner: `celery -A runner worker -Q L,celery -P threads -c 2`."""

from celery import Celery

from runner import celeryconfig, config, control

app = Celery("datarun", include=["runner.tasks"], control="runner.control:Control")
app.config_from_object(celeryconfig)
if config.has_broker():
    app.conf.task_queues = celeryconfig.queues(no_declare=True)  # the master's `manage.py declare_queues` has made them
    control.declare_none(app)
