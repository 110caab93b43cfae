"""Which certificates both sides of a TLS connection know each other by."""

import ssl
from pathlib import Path

from deregister_agent.host.files import open_plain

SYSTEM_CAS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where Debian and Red Hat keep theirs: a Python built elsewhere may look in other places."""


TlsFiles = tuple[Path | None, Path | None, Path | None]
"""The CAs to trust instead of the system's, a client certificate and its key."""
NO_FILES: TlsFiles = (None, None, None)


def tls_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return settings that verify the server's name, from the files as they are now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in filter(None, (ca, certificate, key)):
        with open_plain(path):  # so that the error names the file, which OpenSSL's does not
            pass
    if ca is not None:
        context.load_verify_locations(ca)
    else:
        _trust_system(context)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def _trust_system(context: ssl.SSLContext) -> None:
    """Load the system's CAs from their own place, whatever SSL_CERT_FILE says."""
    paths = ssl.get_default_verify_paths()
    for file in filter(None, (paths.openssl_cafile, *SYSTEM_CAS)):
        if Path(file).is_file():
            context.load_verify_locations(cafile=file)
            break
    if Path(paths.openssl_capath).is_dir():
        context.load_verify_locations(capath=paths.openssl_capath)
