"""Buckets of object stores that functions mount at a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from modal._planned import not_yet
from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.messages.function import VolumeMount
    from modal._secret import Secret


class CloudBucketMount:
    """Mounts a cloud bucket to your container. Currently supports AWS S3 buckets and what is compatible."""

    def __init__(
        self,
        bucket_name: str,
        bucket_endpoint_url: Optional[str] = None,
        key_prefix: Optional[str] = None,
        secret: Optional[Secret] = None,
        oidc_auth_role_arn: Optional[str] = None,
        read_only: bool = False,
        requester_pays: bool = False,
    ) -> None:
        if key_prefix is not None and not key_prefix.endswith("/"):
            raise InvalidError(f"CloudBucketMount: key_prefix must end with a slash: {key_prefix + '/'!r}.")
        if requester_pays and secret is None:
            raise InvalidError("CloudBucketMount: requester_pays needs a secret with credentials.")
        if secret is not None and oidc_auth_role_arn is not None:
            raise InvalidError("CloudBucketMount: give either a secret or oidc_auth_role_arn.")
        self.bucket_name = bucket_name
        self.bucket_endpoint_url = bucket_endpoint_url
        self.key_prefix = key_prefix
        self.secret = secret
        self.oidc_auth_role_arn = oidc_auth_role_arn
        self.read_only = read_only
        self.requester_pays = requester_pays

    async def _mount(self, client: Client, path: str) -> VolumeMount:
        raise not_yet(f"Mounting a modal.CloudBucketMount (here at {path})")

    def __repr__(self) -> str:
        return f"modal.CloudBucketMount({self.bucket_name!r})"
