"""Ray: the first result from a cluster that runs. Argument: its address."""

import sys

import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")


@ray.remote
def square(number):
    return number * number


print("result", ray.get(square.remote(1000)), flush=True)
