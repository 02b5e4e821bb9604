"""What of Celery's worker is in touch with the broker: without what datarun does not use, and alive to the end."""

from collections.abc import Callable
from typing import Any

from celery.utils.log import get_task_logger
from celery.worker import consumer, state

from runner import received

log = get_task_logger(__name__)

_Blueprint: Any = consumer.Consumer.Blueprint


class Consumer(consumer.Consumer):
    hub: Any
    connection_errors: tuple[type[Exception], ...]

    class Blueprint(_Blueprint):
        # It would declare 28 queues for tasks with a delay, of which there are none; a runner may declare nothing.
        default_steps = [step for step in _Blueprint.default_steps if "DelayedDelivery" not in step]

    def __init__(self, *args: Any, **more: Any) -> None:
        # Both believe what any worker says: which tasks are revoked, and what time it is.
        more["worker_options"] = (more.get("worker_options") or {}) | {"without_mingle": True, "without_gossip": True}
        super().__init__(*args, **more)

    def create_task_handler(self, *args: Any, **more: Any) -> Callable[[Any], Any]:
        """What is received is stripped before Celery sees it; what can't be a message of ours is dropped."""
        handle = super().create_task_handler(*args, **more)

        def on_task_received(message: Any) -> Any:
            try:
                message = received.plain(message)
            except received.Unfit as why:
                sender = message.properties.get("user_id")
                log.error("a message of %.100r is dropped: it %s", sender, why)
                return message.reject_log_error(log, self.connection_errors)
            return handle(message)

        return on_task_received

    def stop(self) -> None:
        """Take no more, then stay connected until what runs has ended.

        Celery waits for its threads without a look at the connection: the broker closes one that shows no life for
        two heartbeats, and gives the folds, which are not acknowledged, to the next runner.
        """
        super().stop()
        if self.hub is None:
            return  # a broker without connections
        loop = self.hub.create_loop()
        try:
            while state.active_requests:
                try:
                    next(loop)
                except StopIteration:
                    loop = self.hub.create_loop()
        except self.connection_errors as error:
            log.warning("the broker is gone before the last folds have ended: they will run again (%s)", error)
