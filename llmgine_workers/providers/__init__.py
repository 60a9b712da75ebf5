"""Calls to models: one file per wire format, compatible services as rows of data."""

from __future__ import annotations

from collections.abc import Mapping

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.llm import Provider
from llmgine_workers.settings import ProviderSettings


def open_providers(
    configured: Mapping[str, ProviderSettings], environ: Mapping[str, str]
) -> dict[str, Provider]:
    """A provider for each configured one; their SDKs are imported here (1-3 s each).

    No connection is made yet. ConfigurationError names a provider without an address,
    with a key that no HTTP header can carry, or without an SDK's extra that it needs.
    """
    from llmgine_workers.providers.anthropic_wire import AnthropicWire
    from llmgine_workers.providers.exchange import HttpProvider
    from llmgine_workers.providers.openai_wire import OpenAIWire
    from llmgine_workers.providers.rows import service_of
    from llmgine_workers.providers.wire import Wire

    forms: dict[str, Wire] = {"openai": OpenAIWire(), "anthropic": AnthropicWire()}
    opened: dict[str, Provider] = {}
    for name, settings in configured.items():
        service = service_of(name, settings)
        url, key = (
            settings.base_url or service.base_url or "",
            _key(name, settings, environ),
        )
        try:
            opened[name] = HttpProvider(
                name, forms[settings.wire], service, url=url, key=key
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"providers.{name}: {error}") from None
    return opened


def _key(name: str, settings: ProviderSettings, environ: Mapping[str, str]) -> str:
    if not settings.key_env:
        return ""
    key = environ.get(settings.key_env, "").strip()
    if not key:
        raise ConfigurationError(f"providers.{name}: {settings.key_env} is empty")
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"providers.{name}: {settings.key_env} holds a character no key has"
        )
    return key
