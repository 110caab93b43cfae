"""The ``[server]`` table: where the HTTP API listens, and whom it answers."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from deregister_agent.config.options import Table
from deregister_agent.host.addresses import ListenAddress, parse_listen_address


class ServerTlsOptions(Table):
    """``[server.tls]``: TLS with client certificates, for every TCP listener."""

    certificate: Path
    """The agent's certificate chain, PEM. Read at start."""
    key: Path
    """Its private key, PEM, without a passphrase."""
    client_ca: Path
    """The CA that has signed the certificates of those who may connect, PEM."""


class ServerOptions(Table):
    """``[server]``: where the HTTP API listens, and whom it answers."""

    listen: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1:8650",)
    """``address:port``, ``[address]:port`` or ``unix:/path``. Not loopback: only with tls."""
    token_file: Path = Path("/var/lib/deregister-agent/token")
    """The bearer token for TCP; made at the first start, mode 0600. Read at start."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that Host may have besides loopback and the address of the listener itself."""
    tls: ServerTlsOptions | None = None
    """TLS with client certificates; needed where other hosts can connect."""
    max_waits: Annotated[int, Field(ge=1, le=4096)] = 512
    """How many requests may wait at once (``wait``, events); more are answered 503."""
    socket_mode: Annotated[str, Field(pattern="^0[0-7]{2}0$")] = "0600"
    """The mode of Unix sockets, octal; who may write to the socket may stop traffic."""
    socket_group: str = ""
    """The group of Unix sockets; the agent's own if empty. Goes with socket_mode 0660."""
    stop_within: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 5.0
    """How long requests in hand may take to finish when the agent is told to stop."""

    @field_validator("listen")
    @classmethod
    def _readable(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        for entry in listen:
            parse_listen_address(entry)
        return listen

    @model_validator(mode="after")
    def _only_with_certificates(self) -> Self:
        for address in self.addresses():
            if address.elsewhere and self.tls is None:
                raise ValueError(
                    f"listen: other hosts can reach {address}: set tls (certificate, key and "
                    "client_ca), or listen on 127.0.0.1, [::1] or unix:/path"
                )
        return self

    def addresses(self) -> list[ListenAddress]:
        """Return the addresses that ``listen`` names."""
        return [parse_listen_address(entry) for entry in self.listen]
