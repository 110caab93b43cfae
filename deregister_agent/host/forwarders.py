"""
Who listens on a port without being the app: forwarders, engines and service managers.

A forwarder that listens for the app hides what the app has in hand, lives when the app
has exited, and must not be ended in its place. Some never accept what comes to their
socket: with ``userland-proxy = false``, dockerd only keeps the port, and the kernel leads
every connection past it into the container. So it is for the holder of a listening socket
to be no known forwarder and to hold nothing that only a forwarder has, or to be named in
the configuration as the app.
"""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from deregister_agent.host import pids
from deregister_agent.host.pids import Pid
from deregister_agent.host.socket_holders import open_files
from deregister_agent.host.sockets import Socket

ENGINES = frozenset(
    {
        *("docker-proxy", "dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2"),
        *("rootlesskit", "rootlessport", "rootlesskit-docker-proxy", "slirp4netns", "pasta"),
        *("pasta.avx2", "passt", "passt.avx2", "conmon", "conmonrs", "podman", "crio", "buildkitd"),
        *("kubelet", "kube-proxy", "k3s", "k3s-server", "k3s-agent", "k0s", "kubelite", "rke2"),
        *("cilium-agent", "kube-router", "lxd", "incusd", "gvproxy", "vpnkit", "nomad"),
        *("systemd-nspawn", "firecracker", "cloud-hypervisor", "com.docker.backend", "netavark"),
        *("wslrelay", "limactl"),
    }
)
"""Container engines, what they start to forward ports, and virtual machines."""

CLIENTS = frozenset(
    {"docker", "docker-compose", "nerdctl", "kubectl", "oc", "lxc", "incus", "ctr", "podman"}
)
"""Programs that start a container or lead to one, and whose end is not the end of the app."""

PROXIES = frozenset(
    {
        *("envoy", "pilot-agent", "linkerd2-proxy", "linkerd-proxy", "cilium-envoy", "ztunnel"),
        *("haproxy", "nginx", "angie", "openresty", "caddy", "traefik", "socat", "ncat", "rinetd"),
        *("systemd-socket-proxyd", "stunnel", "stunnel4", "ghostunnel", "ssh", "sshd", "hitch"),
        *("sshd-session", "oauth2-proxy", "varnishd", "pound", "squid", "redir", "simpleproxy"),
        *("autossh", "gost", "frpc", "frps", "chisel", "cloudflared", "ngrok", "boundary"),
        *("apache2", "httpd", "trafficserver", "relayd", "mitmproxy", "tailscaled", "daprd"),
    }
)
"""Programs that mostly listen for somebody else; named as the app they may be the app."""

SERVICE_MANAGERS = frozenset(
    {
        *("systemd", "init", "launchd", "inetd", "xinetd", "supervisord", "circusd", "einhorn"),
        *("start_server", "systemd-socket-activate", "s6-ipcserverd", "s6-svscan", "runsvdir"),
        *("dinit", "shepherd", "openrc-init", "runit", "finit", "upstart", "busybox-init"),
    }
)
"""Programs that keep a socket open for a process that they start: never the app themselves."""

_KEEPERS = ENGINES - {"containerd", "containerd-shim", "containerd-shim-runc-v2", "buildkitd"}
_MONITORS = frozenset({"conmon", "conmonrs", "systemd-nspawn"})
_VIRTUAL = re.compile(r"qemu-|lxc-|VBoxHeadless|vmware-vmx")  # how the names of others begin
_INTERPRETER = re.compile(r"(?:python|pypy|perl|ruby|node|nodejs)[\d.]*")
_MODULE = re.compile(r"-[bBdEiIOPqsSuvx]*m")  # python -m, also among its other letters
_CODE = re.compile(r"-[bBdEiIOPqsSuvxwn]*[ce]|-")
_WITH_VALUE = frozenset({"-W", "-X", "-r", "--require"})  # options with a word of their own
_FOLDER = "-I"  # the same for perl and ruby; without a word, an option of Python
_LINE = 4096  # bytes of a command line, of which the first words are of interest
_NAMED_NETWORK = "/netns/"  # where ip, Docker and CNI mount networks: such a file shows its path
_LISTENS_FOR_ITS_APPS = re.compile(r"PM2 v\d")  # the title of PM2's daemon
_COMM = 15  # characters of a program's name that the kernel keeps
_INITIAL = "pid:[4026531836]"  # the pid namespace of the host (linux/proc_ns.h)
_WHO_IT_IS = (
    "which process the app is, and what it has in hand, cannot be told from here: run the agent "
    'in the network and pid namespaces of the app, or see the app by a probe (process.by = "probe")'
)


def names(pid: int) -> frozenset[str]:
    """Return what a program is called: by the kernel, its file, its command line, its script."""
    found = {pids.name(pid)}
    folder = Path("/proc") / str(pid)
    with suppress(OSError):  # another user's, or a thread of the kernel
        found.add((folder / "exe").readlink().name.removesuffix(" (deleted)"))
    try:
        with (folder / "cmdline").open("rb") as line:
            words = line.read(_LINE).decode(errors="replace").split("\0")
    except OSError:
        words = [""]
    found.add(os.path.basename(words[0].partition(": ")[0]))  # noqa: PTH119 - it is no path for certain
    if any(_INTERPRETER.fullmatch(name) for name in found):
        is_python = any(name.startswith(("python", "pypy")) for name in found)
        found.add(_script(words[1:], _WITH_VALUE if is_python else _WITH_VALUE | {_FOLDER}))
    return frozenset(found - {""})


def _script(arguments: Sequence[str], with_value: frozenset[str]) -> str:
    """
    Return the name of the script or module that an interpreter runs; empty if it runs none.

    A shebang with ``env``, a wrapper that executes the interpreter and ``python -m`` leave
    the kernel with no other name than that of the interpreter.
    """
    left = iter(arguments)
    for word in left:
        if _MODULE.fullmatch(word):
            return next(left, "").rpartition(".")[2]
        if _CODE.fullmatch(word):
            return ""
        if word in with_value:
            next(left, "")
        elif not word.startswith("-"):
            return os.path.basename(word)  # noqa: PTH119 - it is no path for certain
    return ""


def is_one_of(known: frozenset[str], called: Iterable[str]) -> str:
    """
    Return under which of its names a program is one of those *known*; empty if it is none.

    The kernel keeps the beginning of a name: that counts where the whole of it is not told.
    """
    every, cut = sorted(called), {name[:_COMM]: name for name in known if len(name) > _COMM}
    for name in every:
        if name in known:
            return name
        told = any(other != name and other.startswith(name) for other in every)
        if name in cut and not told:
            return cut[name]
    return ""


def is_activator(process: Pid) -> bool:
    """
    Tell whether a process keeps sockets open for others that it starts.

    A service manager by its name, and pid 1 of the host itself. In a container of its own
    the app is pid 1.
    """
    if process[0] == 1 and pids.namespace() == _INITIAL:
        return True
    return bool(is_one_of(SERVICE_MANAGERS, names(process[0])))


def not_to_be_ended(pid: int) -> str:
    """Return why a process must never be ended as the app, in words; empty if it may."""
    called = names(pid)
    if name := is_one_of(ENGINES, called) or _virtual(called):
        return f"pid {pid} is {name}, which runs or serves containers"
    if name := is_one_of(SERVICE_MANAGERS, called):
        return f"pid {pid} is {name}, a service manager"
    if name := _listens_for_its_apps(called):
        return f"pid {pid} is {name}, which manages several apps"
    if name := is_one_of(CLIENTS, called):
        return f"pid {pid} is {name}, which only leads to a container"
    return ""


def engine_running() -> str:
    """Return the name of a container engine that runs on this host and may keep ports; or ""."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - many times as fast
        if entry.isdigit() and (name := is_one_of(_KEEPERS, [pids.name(int(entry))])):
            return name
    return ""


def not_the_app(pid: int) -> str:
    """
    Return why a process that a pid file or systemd names is not the app; empty if it may be.

    What watches over one container and ends with it may stand for what is in it.
    """
    return "" if is_one_of(_MONITORS, names(pid)) else not_to_be_ended(pid)


def suspected(
    holders: Iterable[Pid], port: int, connected: Iterable[Socket], program: str = ""
) -> str:
    """
    Say why one of the *holders* of the listening sockets of *port* may not be the app.

    Empty where nothing speaks against them, or the program is the one that the configuration
    names. *connected* are the connections of that port which this network shows.
    """
    accepted = {f"socket:[{one.inode}]" for one in connected if one.inode}
    for pid, _ in sorted(holders):
        if pid == os.getpid():
            continue
        called = names(pid)
        if program and program in called:
            continue
        if why := _forwards(pid, called) or _is_elsewhere(pid, accepted):
            who = ", ".join(sorted(called)) or "a program"
            return f"{who} (pid {pid}) listens on port {port} {why}: {_WHO_IT_IS}"
    return ""


def _forwards(pid: int, called: frozenset[str]) -> str:
    if is_one_of(ENGINES, called) or _virtual(called):
        return "for a container or a virtual machine"
    if name := is_one_of(PROXIES, called):
        return f'as a proxy of somebody, or is the app itself (then say so: program = "{name}")'
    if _listens_for_its_apps(called):
        return "for the apps that it starts, and hands them its connections"
    files = open_files(pid)
    if "/dev/net/tun" in files or "/dev/kvm" in files:
        return "and holds a device of a virtual network or machine, as who forwards into one does"
    spaces = {file for file in files if file.startswith("net:[") or _NAMED_NETWORK in file}
    if spaces - {_network("thread-self")}:
        return "and holds the network namespace of somebody else, as a container engine does"
    return ""


def _is_elsewhere(pid: int, accepted: set[str]) -> str:
    """Say that a process lives in another network, unless it reads from a connection of ours."""
    theirs = _network(str(pid))
    if not theirs or theirs == _network("thread-self") or accepted.intersection(open_files(pid)):
        return ""
    return "from another network namespace, and has accepted none of the connections of this one"


def _network(process: str) -> str:
    try:
        return str(Path(f"/proc/{process}/ns/net").readlink())
    except OSError:
        return ""


def _listens_for_its_apps(called: Iterable[str]) -> str:
    return next((name for name in sorted(called) if _LISTENS_FOR_ITS_APPS.match(name)), "")


def _virtual(called: Iterable[str]) -> str:
    return next((name for name in sorted(called) if _VIRTUAL.match(name)), "")
