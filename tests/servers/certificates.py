"""A CA, and certificates of it for a server at 127.0.0.1 and for a client."""

import ssl
import subprocess
from pathlib import Path

NEW = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def make_certificates(folder: Path) -> None:
    """Make ca, other (a CA that vouches for nobody), server and client: NAME.pem and NAME.key."""
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for ca in ("ca", "other"):
        _openssl(folder, f"{NEW} -x509 -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem")
    for name in ("server", "client"):
        _openssl(folder, f"{NEW} -subj /CN={name} -keyout {name}.key -out {name}.csr")
        signed_by = "-CA ca.pem -CAkey ca.key -CAcreateserial"
        extensions = f"-extfile {name}.ext -out {name}.pem"
        _openssl(folder, f"x509 -req -days 2 -in {name}.csr {signed_by} {extensions}")


def server_side(folder: Path) -> ssl.SSLContext:
    """Return the settings of a server that wants a client certificate of the CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _openssl(folder: Path, arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
