"""Send the results of some seconds to the master once more, the last one first, as a broker may that fails over.

A script, run with the environment of the master on RabbitMQ: `python twice.py SECONDS`. Prints how many it sent.
"""

import sys
import time
from typing import Any

from runner import config
from runner.celery import app

with app.connection_for_write() as connection:
    channel: Any = connection.default_channel
    copies = channel.queue_declare(exclusive=True).queue
    channel.queue_bind(copies, config.RESULT_EXCHANGE, config.MASTER_QUEUE)
    time.sleep(float(sys.argv[1]))
    messages = []
    while (message := channel.basic_get(copies, no_ack=True)) is not None:
        messages.append(message)
    for message in reversed(messages):
        channel.basic_publish(message, exchange=config.RESULT_EXCHANGE, routing_key=config.MASTER_QUEUE)
print(len(messages))
