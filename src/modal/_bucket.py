"""Buckets of object stores that functions mount at a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.messages.function import VolumeMount
    from modal._secret import Secret


class CloudBucketMount:
    """Mounts a cloud bucket to your container. Currently supports AWS S3 buckets and what is compatible.

    ```python
    secret = modal.Secret.from_dict({"AWS_ACCESS_KEY_ID": "...", "AWS_SECRET_ACCESS_KEY": "..."})

    @app.function(volumes={"/my-mount": modal.CloudBucketMount("s3-bucket-name", secret=secret)})
    def f():
        subprocess.run(["ls", "/my-mount"])
    ```

    Cloudflare R2 and Google Cloud Storage need `bucket_endpoint_url`. The secret may have `AWS_REGION` and
    `AWS_SESSION_TOKEN` too, and for Google `GOOGLE_ACCESS_KEY_ID` and `GOOGLE_ACCESS_KEY_SECRET`. With `key_prefix`
    (which ends with a slash) only what is below it is seen. Files are written from their beginning to their end, and
    are in the bucket when they are closed; the mode of a file cannot be changed.

    See [the guide](https://modal.com/docs/guide/cloud-bucket-mounts).
    """

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
        given: Any = bucket_name
        if not isinstance(given, str) or not given or "/" in given or ":" in given:
            raise InvalidError(
                f"CloudBucketMount: {given!r} is not the name of a bucket (give the name alone, not an ARN or a URL)."
            )
        for what, text in (("bucket_endpoint_url", bucket_endpoint_url), ("key_prefix", key_prefix)):
            if text is not None and not isinstance(text, str):
                raise InvalidError(f"CloudBucketMount: {what} must be a string, not {type(text).__name__}.")
        if bucket_endpoint_url is not None and not bucket_endpoint_url.startswith(("http://", "https://")):
            raise InvalidError(
                f"CloudBucketMount: bucket_endpoint_url must begin with https:// or http://: {bucket_endpoint_url!r}."
            )
        if key_prefix is not None and not key_prefix.endswith("/"):
            raise InvalidError(f"CloudBucketMount: key_prefix must end with a slash: {key_prefix + '/'!r}.")
        from modal._secret import Secret as SecretClass

        if secret is not None and not isinstance(secret, SecretClass):
            raise InvalidError(f"CloudBucketMount: secret must be a modal.Secret, not {type(secret).__name__}.")
        for what, flag in (("read_only", read_only), ("requester_pays", requester_pays)):
            if not isinstance(flag, bool):
                raise InvalidError(f"CloudBucketMount: {what} must be True or False, not {flag!r}.")
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
        """As a part of a function's spec; the secret's id stands for its credentials."""
        from modal._protocol.messages.function import VolumeMount

        secret_id = await self.secret._load_for(client, "", None) if self.secret is not None else ""
        options = {
            "bucket": self.bucket_name,
            "endpoint": self.bucket_endpoint_url or "",
            "prefix": self.key_prefix or "",
            "role": self.oidc_auth_role_arn or "",
            "requester_pays": self.requester_pays,
        }
        return VolumeMount(path, "bucket", secret_id, self.read_only, options)

    def __repr__(self) -> str:
        return f"modal.CloudBucketMount({self.bucket_name!r})"
