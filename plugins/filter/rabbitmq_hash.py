"""`password | rabbitmq_hash(name)`: a password as RabbitMQ's definitions have it."""

import base64
import hashlib
from collections.abc import Callable


def rabbitmq_hash(password: str, name: str) -> str:
    """base64(salt + SHA-256(salt + password)), with a salt of 4 bytes: https://www.rabbitmq.com/docs/passwords.

    The salt is made of the user's name, so that the same password gives the same file in each run.
    """
    salt = hashlib.sha256(name.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


class FilterModule:
    def filters(self) -> dict[str, Callable[..., str]]:
        return {"rabbitmq_hash": rabbitmq_hash}
