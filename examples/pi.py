"""Many containers, one number: estimate pi by throwing darts, with an image of its own.

modal run examples/pi.py --throws 20000000 --containers 8
"""

import modal

image = modal.Image.debian_slim().pip_install("numpy")
app = modal.App("example-pi", image=image)


@app.function(max_containers=8, cpu=0.5)
def hits(throws: int, seed: int) -> int:
    import numpy

    points = numpy.random.default_rng(seed).random((throws, 2))
    return int(((points**2).sum(axis=1) <= 1.0).sum())


@app.local_entrypoint()
def main(throws: int = 4_000_000, containers: int = 4):
    share = throws // containers
    total = sum(hits.starmap((share, seed) for seed in range(containers)))
    print(f"pi is about {4 * total / (share * containers):.4f}")
