"""Ray: the first result where nothing runs yet."""

import sys

import ray

ray.init(
    address="local",
    num_cpus=2,
    include_dashboard=False,
    log_to_driver=False,
    logging_level="ERROR",
    _temp_dir=sys.argv[1],
)


@ray.remote
def square(number):
    return number * number


print("result", ray.get(square.remote(1000)), flush=True)
