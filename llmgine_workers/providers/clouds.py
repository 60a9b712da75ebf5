"""Bedrock and Vertex, through the SDKs' own classes and their optional extras.

With a key (`key_env`) it is sent as a bearer token and no extra is needed; without one
the cloud's own way of finding credentials is used, as its other programs do: for AWS
the variables, profile or role, for Google the application default credentials.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import orjson

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.providers.clients import ways
from llmgine_workers.providers.lines import Line, SdkLine, Unsigned

if TYPE_CHECKING:
    from llmgine_workers.providers.rows import Service

_PLACE = re.compile(r"(.+)/projects/([^/]+)/locations/([^/]+)/?")


def bedrock_client(service: Service, url: str, key: str) -> Line:
    """`AsyncOpenAI` with the SDK's `bedrock` provider: Chat Completions on Bedrock."""
    import openai
    from openai.providers import bedrock

    if not key:
        _need("botocore", "openai[bedrock]")
    try:
        provider = bedrock(base_url=url, api_key=key or None)
        client = _signing(openai.AsyncOpenAI)
        return SdkLine(client(provider=provider, **ways(service, openai)))
    except openai.OpenAIError as error:  # the address and AWS_REGION do not agree
        raise ConfigurationError(str(error)) from None


def mantle_client(service: Service, url: str, key: str) -> Line:
    """`AsyncAnthropicBedrockMantle`: Messages on Bedrock.

    The older endpoint, of `AsyncAnthropicBedrock`, frames its streams in AWS's own
    binary format instead of server-sent events.
    """
    import anthropic

    if not key:
        _need("boto3", "anthropic[bedrock]")
    client = _signing(anthropic.AsyncAnthropicBedrockMantle)
    return SdkLine(
        client(
            base_url=url,
            api_key=key or None,
            open_telemetry=False,
            **ways(service, anthropic),
        )
    )


def vertex_client(service: Service, url: str, key: str) -> Line:
    """`AsyncOpenAI` with the SDK's `vertex` provider: Chat Completions on Vertex AI."""
    import openai
    from openai.providers import vertex

    if not key:
        _need("google.auth.transport.requests", "openai[vertex]")
    try:
        provider = vertex(base_url=url, token_provider=(lambda: key) if key else None)
        client = _signing(openai.AsyncOpenAI)
        return SdkLine(client(provider=provider, **ways(service, openai)))
    except openai.OpenAIError as error:  # the address cannot be one of Vertex
        raise ConfigurationError(str(error)) from None


def vertex_claude_client(service: Service, url: str, key: str) -> Line:
    """`AsyncAnthropicVertex`: Messages on Vertex AI.

    Its address names the project and the location, as the service's own paths do.
    """
    import anthropic

    if not key:
        _need("google.auth.transport.requests", "anthropic[vertex]")
    found = _PLACE.fullmatch(url)
    if found is None:
        raise ConfigurationError("base_url must end in /projects/NAME/locations/NAME")
    origin, project, region = found.groups()

    class Vertex(_signing(anthropic.AsyncAnthropicVertex)):  # type: ignore[misc]
        async def _prepare_options(self, options: Any) -> Any:
            # The SDK moves the model from the body into the path.
            options.json_data = orjson.loads(options.content)
            options.content = None
            return await super()._prepare_options(options)

    return SdkLine(
        Vertex(
            base_url=origin,
            project_id=project,
            region=region,
            access_token=key or None,
            open_telemetry=False,
            **ways(service, anthropic),
        )
    )


def _need(module: str, extra: str) -> None:
    try:
        import_module(module)
    except ImportError:
        raise ConfigurationError(
            f"without a key it needs an extra: pip install '{extra}'"
        ) from None


def _signing(client_class: Any) -> Any:
    """The class, whose failures to find or use credentials are `Unsigned`.

    They come from several cloud libraries and share no ancestor. Only the kind is
    told: their texts may hold what they were given.
    """

    class Signing(client_class):  # type: ignore[misc]
        async def _prepare_request(self, request: Any) -> None:
            try:
                await super()._prepare_request(request)
            except Exception as error:  # see above
                raise Unsigned(type(error).__name__) from error

    return Signing
