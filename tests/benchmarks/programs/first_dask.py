"""Dask: the first result of a local cluster of two processes."""

from dask.distributed import Client, LocalCluster


def square(number):
    return number * number


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        print("result", client.submit(square, 1000).result(), flush=True)
