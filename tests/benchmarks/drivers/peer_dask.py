"""Dask distributed: a scheduler and two worker processes."""

from dask.distributed import Client, wait  # noqa: F401

DATA = {}


def noop(value=None):
    return value


def size(data):
    return len(data)


def make(size):
    return b"x" * size


class Peer:
    def __init__(self, address):
        self.client = Client(address)
        self.client.upload_file(__file__)
        self.call()

    def call(self):
        self.client.submit(noop, 1, pure=False).result()

    def map(self, count):
        return len(self.client.gather(self.client.map(noop, range(count), pure=False)))

    def send(self, data):
        return self.client.submit(size, data, pure=False).result()

    def fetch(self, size):
        return self.client.submit(make, size, pure=False).result()

    def close(self):
        self.client.close()
