"""Per-file uploads to, and downloads from, a local S3 server (moto), ten at a time as `aws s3 cp --recursive` does.

`peer_s3.py PORT put|get DIRECTORY PREFIX` prints the seconds that it took.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

PARALLEL = 10
BUCKET = "bench"


def main() -> None:
    port, action, directory, prefix = sys.argv[1:]
    made = threading.local()

    def client() -> object:
        if not hasattr(made, "client"):
            made.client = boto3.session.Session().client(
                "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                aws_access_key_id="x", aws_secret_access_key="x", config=Config(retries={"max_attempts": 2}),
            )  # fmt: skip
        return made.client

    first = client()
    first.create_bucket(Bucket=BUCKET)
    if action == "put":
        paths = [os.path.join(where, name) for where, _, names in os.walk(directory) for name in names]
        work = [(path, f"{prefix}/{os.path.relpath(path, directory)}") for path in paths]
    else:
        pages = first.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix + "/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        work = [(os.path.join(directory, key[len(prefix) + 1 :]), key) for key in keys]
        for folder in {os.path.dirname(path) for path, _ in work}:
            os.makedirs(folder, exist_ok=True)

    def one(pair: tuple[str, str]) -> None:
        if action == "put":
            client().upload_file(pair[0], BUCKET, pair[1])
        else:
            client().download_file(BUCKET, pair[1], pair[0])

    began = time.perf_counter()
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(one, work))
    print(time.perf_counter() - began)


main()
