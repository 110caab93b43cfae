"""Apache with mod_wsgi, as Debian has them, serving one app with a group of daemon processes."""

from collections.abc import Sequence
from pathlib import Path

from tests.servers import find

# Apache refuses to serve as root, and whom it changed to could not read the test's folder: so
# it runs as nobody special in a user namespace, in which the folder is its own.
AS_A_USER = ("/usr/bin/unshare", "--user", "--map-user=1000", "--map-group=1000")
MODULES = ("mpm_event", "authz_core", "wsgi")


def command(folder: Path, *daemon: str) -> Sequence[str]:
    """
    Return what runs it on port PORT, with ``shop.py`` in that folder as the app.

    *daemon* are options of its WSGIDaemonProcess, such as ``threads=8``. Python is Debian's
    own, which has nothing but the standard library: as much as the app library needs.
    """
    apache = find("mod_wsgi")
    usr = Path(apache[-1]).parents[1]
    modules = usr / "lib" / "apache2" / "modules"
    root = Path(__file__).parents[2]
    home = [] if usr == Path("/usr") else [f"WSGIPythonHome {usr}"]
    lines = [
        *(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in MODULES),
        "ServerName localhost",
        f"DefaultRuntimeDir {folder}",
        f"PidFile {folder}/apache.pid",
        f"ErrorLog {folder}/log",
        "Listen 127.0.0.1:${PORT}",
        *home,
        f"WSGISocketPrefix {folder}/wsgi",
        f"WSGIDaemonProcess shop {' '.join(daemon)} python-path={root} home={folder}",
        "WSGIProcessGroup shop",
        "WSGIApplicationGroup %{GLOBAL}",
        f"WSGIScriptAlias / {folder}/shop.py",
        f"<Directory {folder}>",
        "Require all granted",
        "</Directory>",
    ]
    configuration = folder / "apache.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return [*AS_A_USER, *apache, "-f", str(configuration), "-DFOREGROUND"]
