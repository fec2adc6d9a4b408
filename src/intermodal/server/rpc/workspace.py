"""Secrets, environments and tokens on the wire."""

from __future__ import annotations

from intermodal.server.principal import principal_of
from intermodal.server.services.apps import Apps
from intermodal.server.services.environments import Environments
from intermodal.server.services.objects import Objects
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.tokens import Tokens
from intermodal.server.store.environments import Environment
from modal._protocol.aio import Connection, Handlers
from modal._protocol.messages.object import ObjectCount
from modal._protocol.messages.secret import (
    EnvironmentCreate,
    EnvironmentDelete,
    EnvironmentInfo,
    EnvironmentList,
    EnvironmentUpdate,
    ObjectId,
    SecretCreate,
    SecretDelete,
    SecretInfo,
    SecretList,
    SecretLookup,
    SecretsKnown,
    SecretsRotate,
    Token,
    TokenCreate,
    TokenInfo,
    TokenList,
    TokenRevoke,
    TokensKnown,
)
from modal._protocol.messages.secret import (
    Environments as EnvironmentsKnown,
)
from modal._protocol.messages.wire import Done


class WorkspaceHandlers:
    def __init__(
        self,
        environments: Environments,
        secrets: Secrets,
        tokens: Tokens,
        apps: Apps,
        objects: Objects,
        workspace: str,
    ) -> None:
        self._environments = environments
        self._secrets = secrets
        self._tokens = tokens
        self._apps = apps
        self._objects = objects
        self._workspace = workspace

    def register(self, handlers: Handlers) -> None:
        handlers.unary(SecretCreate)(self.create_secret)
        handlers.unary(SecretLookup)(self.lookup_secret)
        handlers.unary(SecretList)(self.list_secrets)
        handlers.unary(SecretDelete)(self.delete_secret)
        handlers.unary(SecretsRotate)(self.rotate_key)
        handlers.unary(EnvironmentCreate)(self.create_environment)
        handlers.unary(EnvironmentList)(self.list_environments)
        handlers.unary(EnvironmentUpdate)(self.update_environment)
        handlers.unary(EnvironmentDelete)(self.delete_environment)
        handlers.unary(TokenCreate)(self.create_token)
        handlers.unary(TokenList)(self.list_tokens)
        handlers.unary(TokenRevoke)(self.revoke_token)

    async def create_secret(self, connection: Connection, message: SecretCreate) -> ObjectId:
        environment = self._environment(connection, message.environment)
        if message.name:
            secret_id = await self._secrets.create(environment, message.name, message.values, message.overwrite)
        else:
            secret_id = await self._secrets.create_inline(environment, message.values)
        return ObjectId(secret_id, message.name)

    async def lookup_secret(self, connection: Connection, message: SecretLookup) -> ObjectId:
        environment = self._environment(connection, message.environment)
        return ObjectId(await self._secrets.lookup(environment, message.name, message.required_keys), message.name)

    async def list_secrets(self, connection: Connection, message: SecretList) -> SecretsKnown:
        rows = await self._secrets.all(self._environment(connection, message.environment))
        return SecretsKnown([SecretInfo(row.secret_id, row.name, row.created_at, row.used_at) for row in rows])

    async def delete_secret(self, connection: Connection, message: SecretDelete) -> Done:
        await self._secrets.delete(self._environment(connection, message.environment), message.name)
        return Done()

    async def rotate_key(self, connection: Connection, message: SecretsRotate) -> ObjectCount:
        return ObjectCount(await self._secrets.rotate_key())

    async def create_environment(self, connection: Connection, message: EnvironmentCreate) -> Done:
        await self._environments.create(message.name)
        return Done()

    async def list_environments(self, connection: Connection, message: EnvironmentList) -> EnvironmentsKnown:
        return EnvironmentsKnown(
            [EnvironmentInfo(each.name, each.web_suffix, each.default) for each in self._environments.all]
        )

    async def update_environment(self, connection: Connection, message: EnvironmentUpdate) -> Done:
        environment = self._environments.resolve(message.name)
        suffix = message.web_suffix if message.set_web_suffix else None
        await self._environments.update(message.name, message.new_name, suffix)
        if suffix not in (None, environment.web_suffix):
            await self._apps.readdress(environment.environment_id)
        return Done()

    async def delete_environment(self, connection: Connection, message: EnvironmentDelete) -> Done:
        environment = self._environments.resolve(message.name)
        self._environments.check_deletable(environment)
        await self._apps.stop_environment(environment)
        await self._objects.delete_environment(environment)
        await self._environments.delete(environment)
        return Done()

    async def create_token(self, connection: Connection, message: TokenCreate) -> Token:
        token_id, secret = await self._tokens.create(message.note, message.role)
        return Token(token_id, secret, self._workspace)

    async def list_tokens(self, connection: Connection, message: TokenList) -> TokensKnown:
        return TokensKnown(
            [TokenInfo(row.token_id, row.role, row.note, row.created_at, row.used_at) for row in self._tokens.all]
        )

    async def revoke_token(self, connection: Connection, message: TokenRevoke) -> Done:
        await self._tokens.revoke(message.token_id)
        return Done()

    def _environment(self, connection: Connection, name: str) -> Environment:
        return self._environments.resolve(name, principal_of(connection))
