"""ProcessPoolExecutor: the first result."""

from concurrent.futures import ProcessPoolExecutor


def square(number):
    return number * number


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print("result", pool.submit(square, 1000).result(), flush=True)
