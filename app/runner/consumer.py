"""What of Celery's worker is in touch with the broker: without what datarun does not use, and alive to the end."""

from typing import Any

from celery.utils.log import get_task_logger
from celery.worker import consumer, state

log = get_task_logger(__name__)

_Blueprint: Any = consumer.Consumer.Blueprint


class Consumer(consumer.Consumer):
    hub: Any
    connection_errors: tuple[type[Exception], ...]

    class Blueprint(_Blueprint):
        # It would declare 28 queues for tasks with a delay, of which there are none; a runner may declare nothing.
        default_steps = [step for step in _Blueprint.default_steps if "DelayedDelivery" not in step]

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
