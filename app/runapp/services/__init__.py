"""Work across rows, files and queues, by its subject: what views, tasks and commands call."""

from runapp.services.attempts import history, lost
from runapp.services.data_sets import ask_for_split, create_raw_data, finish_split, lost_split
from runapp.services.ending import RETRY_AFTER, wait_for_end
from runapp.services.fetching import Fetch, Shown
from runapp.services.folds import create_folds
from runapp.services.holders import Elsewhere, check_holder
from runapp.services.mending import PATIENCE, mend, requeue_all, send_anew
from runapp.services.queueing import QueueError, declare_queues, publish_split
from runapp.services.restoring import restored
from runapp.services.results import advance, finish, finish_many, wait_for_share
from runapp.services.runners import packages, save_runner
from runapp.services.waiting import explain

__all__ = [
    "PATIENCE",
    "Elsewhere",
    "Fetch",
    "RETRY_AFTER",
    "QueueError",
    "Shown",
    "advance",
    "ask_for_split",
    "check_holder",
    "create_folds",
    "create_raw_data",
    "declare_queues",
    "explain",
    "finish",
    "finish_many",
    "finish_split",
    "history",
    "lost",
    "lost_split",
    "mend",
    "packages",
    "publish_split",
    "requeue_all",
    "restored",
    "save_runner",
    "send_anew",
    "wait_for_end",
    "wait_for_share",
]
