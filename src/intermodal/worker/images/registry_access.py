"""Who a build is at a registry: what its secret holds becomes a user's name and a password."""

from __future__ import annotations

import asyncio
import base64
import json

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.registry_ecr import EcrError, authorization_token
from intermodal.worker.images.registry_reference import Reference
from intermodal.worker.images.registry_transport import Login

ACCESS = ("", "aws", "gcp")  # how a recipe says which secret to expect
AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


async def login_for(access: str, reference: Reference, secret: dict[str, str]) -> Login | None:
    """The login for a registry, None where no secret was given. Raises StepError for what the secret lacks."""
    if access == "aws":
        return await _aws(reference, secret)
    if access == "gcp":
        return _google(secret)
    if not secret:
        return None
    wanted = ("REGISTRY_USERNAME", "REGISTRY_PASSWORD")
    _need(secret, wanted, f"to log in to {reference.host}")
    return Login(*(secret[name] for name in wanted))


def _need(secret: dict[str, str], names: tuple[str, ...], what_for: str) -> None:
    missing = [name for name in names if not secret.get(name)]
    if missing:
        has = ", ".join(sorted(secret)) or "nothing"
        raise StepError(f"the secret lacks {' and '.join(missing)} {what_for} (it has {has})")


def _google(secret: dict[str, str]) -> Login:
    """Google's registries take a service account's key as the password."""
    _need(secret, ("SERVICE_ACCOUNT_JSON",), "to log in to Google's registry")
    text = secret["SERVICE_ACCOUNT_JSON"].strip()
    try:
        key = json.loads(text)
    except ValueError:
        try:  # some keep it in base 64, which the registry takes as well
            json.loads(base64.b64decode(text, validate=True))
        except ValueError:
            raise StepError("SERVICE_ACCOUNT_JSON of the secret is no JSON: it must be the whole key file") from None
        return Login("_json_key_base64", text)
    if not isinstance(key, dict) or "private_key" not in key or "client_email" not in key:
        raise StepError("SERVICE_ACCOUNT_JSON of the secret is no key of a service account: private_key is missing")
    return Login("_json_key", text)


async def _aws(reference: Reference, secret: dict[str, str]) -> Login | None:
    """Amazon's registry gives a token for twelve hours to who has the right keys."""
    if not secret:
        raise StepError(f"{reference.host} is private: pass secret= with {', '.join(AWS_KEYS)} and AWS_REGION")
    _need(secret, AWS_KEYS, f"to log in to {reference.host}")
    try:
        username, password = await asyncio.to_thread(authorization_token, reference.host, secret)
    except EcrError as error:
        raise StepError(str(error)) from None
    return Login(username, password)
