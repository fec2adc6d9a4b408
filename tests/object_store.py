"""An S3 server in a process of its own, which checks signatures and permissions."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.ports import free_port

BUCKET = "test-bucket"
_POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
_PATHS = {"S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"}  # a host's name is no bucket's
_SETUP_ACTIONS = 4  # that make the user, before credentials are asked for


class ObjectStore:
    """`start` before anything else; what it holds is lost with it."""

    def __init__(self, log: Path, host: str = "127.0.0.1") -> None:
        """`host`: "0.0.0.0" for one that containers ask."""
        self._log, self._host = log, host
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key_id = self.key = ""

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("object_store_server.py")), str(self.port), self._host],
                env={**environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_SETUP_ACTIONS), **_PATHS},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 200
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"the S3 server does not start:\n{self._log.read_text()}") from None
                time.sleep(0.05)
        iam = self._client("iam", "nobody", "nothing")
        iam.create_user(UserName="user")
        arn = iam.create_policy(PolicyName="all", PolicyDocument=json.dumps(_POLICY))["Policy"]["Arn"]
        iam.attach_user_policy(UserName="user", PolicyArn=arn)
        made = iam.create_access_key(UserName="user")["AccessKey"]
        self.key_id, self.key = made["AccessKeyId"], made["SecretAccessKey"]
        self.s3.create_bucket(Bucket=BUCKET)

    @property
    def s3(self) -> Any:
        """boto3's client."""
        return self._client("s3", self.key_id, self.key)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _client(self, service: str, key_id: str, key: str) -> Any:
        import boto3

        return boto3.client(
            service, endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id=key_id, aws_secret_access_key=key, aws_session_token=None,
        )  # fmt: skip
