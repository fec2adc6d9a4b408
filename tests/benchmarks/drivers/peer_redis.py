"""Redis lists and hashes through redis-py, with values pickled as a program in Python would."""

import pickle

import redis
import stored


class Queue:
    def __init__(self, client):
        self.client = client
        client.delete("queue")

    def put(self, item):
        self.client.rpush("queue", pickle.dumps(item, 5))

    def get(self):
        return pickle.loads(self.client.lpop("queue"))

    def put_many(self, items):
        self.client.rpush("queue", *[pickle.dumps(item, 5) for item in items])

    def get_many(self, count):
        return [pickle.loads(item) for item in self.client.lpop("queue", count)]


class Dict:
    def __init__(self, client):
        self.client = client
        client.delete("dict")

    def put(self, key, value):
        self.client.hset("dict", pickle.dumps(key, 5), pickle.dumps(value, 5))

    def get(self, key):
        return pickle.loads(self.client.hget("dict", pickle.dumps(key, 5)))

    def update(self, entries):
        pickled = {pickle.dumps(key, 5): pickle.dumps(value, 5) for key, value in entries.items()}
        self.client.hset("dict", mapping=pickled)

    def items(self):
        return [(pickle.loads(key), pickle.loads(value)) for key, value in self.client.hgetall("dict").items()]


class Peer:
    def __init__(self, path):
        self.client = redis.Redis(unix_socket_path=path)
        self.client.ping()

    def stored_queue(self, count):
        return stored.queue(Queue(self.client), count)

    def stored_dict(self, count):
        return stored.dictionary(Dict(self.client), count)

    def close(self):
        self.client.close()
