"""Redis lists and hashes through redis-py, with values pickled as a program in Python would."""

import os
import pickle

import redis
import stored


class Queue:
    def __init__(self, client):
        self.client = client
        self.name = f"queue-{os.getpid()}"

    def put(self, item):
        self.client.rpush(self.name, pickle.dumps(item, 5))

    def get(self):
        return pickle.loads(self.client.lpop(self.name))

    def put_many(self, items):
        self.client.rpush(self.name, *[pickle.dumps(item, 5) for item in items])

    def get_many(self, count):
        return [pickle.loads(item) for item in self.client.lpop(self.name, count)]


class Dict:
    def __init__(self, client):
        self.client = client
        self.name = f"dict-{os.getpid()}"

    def put(self, key, value):
        self.client.hset(self.name, pickle.dumps(key, 5), pickle.dumps(value, 5))

    def get(self, key):
        return pickle.loads(self.client.hget(self.name, pickle.dumps(key, 5)))

    def contains(self, key):
        return self.client.hexists(self.name, pickle.dumps(key, 5))

    def pop(self, key):
        """Both at once, as nobody else may see what is taken out."""
        pickled = pickle.dumps(key, 5)
        both = self.client.pipeline(transaction=True)
        value, _removed = both.hget(self.name, pickled).hdel(self.name, pickled).execute()
        return pickle.loads(value)

    def update(self, entries):
        pickled = {pickle.dumps(key, 5): pickle.dumps(value, 5) for key, value in entries.items()}
        self.client.hset(self.name, mapping=pickled)

    def items(self):
        return [(pickle.loads(key), pickle.loads(value)) for key, value in self.client.hgetall(self.name).items()]


class Peer:
    def __init__(self, path):
        self.client = redis.Redis(unix_socket_path=path)
        self.client.ping()
        self._stored = stored.Stored(lambda kind: Queue(self.client) if kind == "queue" else Dict(self.client))

    def stored(self, kind, phase, count):
        return self._stored.phase(kind, phase, count)

    def close(self):
        self.client.close()
