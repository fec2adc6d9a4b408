"""The Celery application, for the worker and for its clients. BENCH_REDIS is the address of the broker."""

import os

from celery import Celery

DATA = {}

app = Celery("celery_tasks", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
app.conf.update(
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
    result_expires=600,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop(value=None):
    return value


@app.task
def size(data):
    return len(data)


@app.task
def make(size):
    if size not in DATA:
        DATA[size] = b"x" * size
    return DATA[size]
