"""Ray: two actors on a running head."""

import ray

DATA = {}


@ray.remote(num_cpus=0)
class Worker:
    def noop(self, value=None):
        return value

    def size(self, data):
        return len(data)

    def make(self, size):
        if size not in DATA:
            DATA[size] = b"x" * size
        return DATA[size]


@ray.remote(num_cpus=0)
class Concurrent:
    async def noop(self, value=None):
        return value


@ray.remote(num_cpus=0)
class Generating:
    def items(self, count):
        for number in range(count):  # noqa: UP028 - Ray calls `send`, which a range does not have
            yield number


class Peer:
    def __init__(self, address):
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        self.workers = [Worker.remote() for _ in range(2)]
        ray.get([worker.noop.remote() for worker in self.workers])
        self.concurrent_worker = None
        self.generating_worker = None

    def call(self):
        ray.get(self.workers[0].noop.remote(1))

    def map(self, count):
        first, second = (worker.noop for worker in self.workers)
        return len(ray.get([(second if number % 2 else first).remote(number) for number in range(count)]))

    def concurrent(self, count):
        if self.concurrent_worker is None:
            self.concurrent_worker = Concurrent.options(max_concurrency=100).remote()
        return len(ray.get([self.concurrent_worker.noop.remote(number) for number in range(count)]))

    def items(self, count):
        if self.generating_worker is None:
            self.generating_worker = Generating.remote()
        refs = self.generating_worker.items.options(num_returns="streaming").remote(count)
        return sum(1 for ref in refs if ray.get(ref) is not None)

    def send(self, data):
        return ray.get(self.workers[0].size.remote(data))

    def fetch(self, size):
        return ray.get(self.workers[0].make.remote(size))

    def fresh(self):
        worker = Worker.remote()
        ray.get(worker.noop.remote(1))
        ray.kill(worker)

    def many(self, count):
        """Start `count` actors; wait until all have answered."""
        workers = [Worker.remote() for _ in range(count)]
        ray.get([worker.noop.remote() for worker in workers])
        for worker in workers:
            ray.kill(worker)

    def close(self):
        ray.shutdown()
