"""
POST each announcement to a URL, signed as Standard Webhooks asks for.

The receiver can check that the announcement is genuine, recent, and no repetition:
standardwebhooks.com, specification 1.0.0, "Webhook headers".
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from deregister_agent.config.options import ClientTlsOptions, NotifierOptions, Secret, Timeout
from deregister_agent.errors import AgentError, ConfigError, NotifyError, excerpt
from deregister_agent.host.clock import SystemClock
from deregister_agent.model import Event, Instance, Process
from deregister_agent.net.fetcher import Answer, Fetcher, FetchError
from deregister_agent.notifiers.event_json import encoded
from deregister_agent.ports import Notifier

_PREFIX = "whsec_"
_ANSWER_LIMIT = 65536  # bytes; nothing of an answer is needed but its status
_SHOWN = 200  # characters of a refusal that are shown
_OWN = ("webhook-", "content-", "host", "user-agent", "connection", "transfer-encoding")
_HINTS = {
    401: "; the receiver does not accept the signature: compare the secrets",
    410: "; the receiver wants no more of them: remove this notifier or change its url",
}


class Options(ClientTlsOptions, NotifierOptions):
    """The keys of a ``webhook`` notifier."""

    url: str
    """Where to POST: http://, https:// or http+unix://%2Frun%2Fx.sock/path."""
    secret: Secret
    """The key that signs: ``whsec_`` and base64, or any other text, taken as it is."""
    further_secrets: tuple[Secret, ...] = ()
    """More keys to sign with, while receivers change from one to another."""
    headers: dict[str, str | Secret] = Field(default_factory=dict)
    """More headers: a text, or a table that says where a secret is."""
    timeout: Timeout = 5.0
    """The limit of one announcement, in seconds."""

    @field_validator("url")
    @classmethod
    def _complete(cls, url: str) -> str:
        parts = urlsplit(url)
        if not parts.scheme or not parts.netloc or parts.fragment or "@" in parts.netloc:
            raise ValueError(
                "must be like https://host/path, without a fragment, user name or password; "
                "headers can have an authorization"
            )
        return url

    @field_validator("headers")
    @classmethod
    def _not_ours(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name in headers:
            if name.lower().startswith(_OWN):
                raise ValueError(f"{name} is set by the agent itself")
        return headers

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate and certificate_key go together")
        return self


class Webhook(Notifier):
    """A receiver of signed announcements."""

    def __init__(self, options: Options) -> None:
        self.name = options.label
        self.announces = frozenset(options.announces)
        self._options = options
        parts = urlsplit(options.url)
        self._host = f"{parts.scheme}://{parts.netloc}"  # a path or query may hold a secret
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._clock = SystemClock()
        self._fetcher = Fetcher(
            self._host,
            timeout=options.timeout,
            tls_files=options.tls_files,
            body_limit=_ANSWER_LIMIT,
        )

    def announce(self, event: Event) -> None:
        """POST *event*. Any 2xx means that the receiver took the event; NotifyError otherwise."""
        body = encoded(event)
        try:
            headers = self._headers(event, body)
            answer = self._fetcher.call("POST", self._target, body=body, headers=headers)
        except AgentError as e:
            raise self._refused(event, e) from e
        if answer.status // 100 != 2:  # noqa: PLR2004 - 2xx
            raise self._refused(event, _refusal(answer))

    def examine(self, running: Process | None) -> str:
        """Read the secrets, connect to the receiver, and hang up without a request."""
        del running
        secrets = (self._options.secret, *self._options.further_secrets)
        try:
            for secret in secrets:
                _key(secret.read())
            for value in self._options.headers.values():
                _ = value if isinstance(value, str) else value.read()
            self._fetcher.knock()
        except AgentError as e:
            raise NotifyError(self.name, f"reach {self._host}", e) from e
        return f"{self._host} takes connections, and its secret can be read; nothing was sent"

    def _headers(self, event: Event, body: bytes) -> Mapping[str, str]:
        """Return the headers, signed now: the timestamp is of this attempt, the id of the event."""
        timestamp = str(int(self._clock.wall()))
        signed = f"{event.id}.{timestamp}.".encode() + body
        secrets = (self._options.secret, *self._options.further_secrets)
        more = self._options.headers.items()
        return {
            **{name: v if isinstance(v, str) else v.read() for name, v in more},
            "Content-Type": "application/json",
            "User-Agent": "deregister-agent",
            "webhook-id": event.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(_signature(_key(s.read()), signed) for s in secrets),
        }

    def _refused(self, event: Event, why: object) -> NotifyError:
        return NotifyError(self.name, f"announce {event.kind} to {self._host}", why)


def _key(secret: str) -> bytes:
    """Return the bytes to sign with. Raises AgentError, without the secret in it."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise AgentError(f"the secret begins with {_PREFIX}, but what follows is not base64")
    return key


def _signature(key: bytes, signed: bytes) -> str:
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _refusal(answer: Answer) -> str:
    """Return the status, what to do about it, and the receiver's own words."""
    if answer.status // 100 == 3:  # noqa: PLR2004 - 3xx
        hint = "; redirects are not followed: set url to the final address"
    else:
        hint = _HINTS.get(answer.status, "")
    said = excerpt(answer.text, _SHOWN)
    return f"HTTP {answer.status}{hint}" + (f" ({said})" if said else "")


def build(options: Options, instance: Instance) -> Webhook:
    """Return the notifier. Raises ConfigError if url or the TLS files cannot be used."""
    try:
        return Webhook(options)
    except FetchError as e:
        raise ConfigError(f"{options.label} of {instance.name}", [str(e)]) from e
