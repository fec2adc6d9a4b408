"""A job queue: submit work to a deployed app, come back for the results later.

modal deploy examples/job_queue.py
python examples/job_queue.py submit "the quick brown fox" "jumps over the lazy dog"
python examples/job_queue.py result fc-…
"""

import collections
import sys
import time

import modal

app = modal.App("example-job-queue")


@app.function(retries=2, timeout=60)
def count_letters(text: str) -> dict:
    time.sleep(1)  # stands for work that takes a while
    return dict(collections.Counter(letter for letter in text.lower() if letter.isalpha()))


def submit(texts):
    function = modal.Function.from_name("example-job-queue", "count_letters")
    for text in texts:
        print(function.spawn(text).object_id)


def result(call_id):
    try:
        print(modal.FunctionCall.from_id(call_id).get(timeout=0))
    except TimeoutError:
        print("not done yet")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("submit", "result"):
        sys.exit(__doc__)
    if sys.argv[1] == "submit":
        submit(sys.argv[2:])
    else:
        result(sys.argv[2])
