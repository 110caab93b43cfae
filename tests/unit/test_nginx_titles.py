"""What processes call themselves, as it was seen in the field, and what that says."""

import pytest

from deregister_agent.registries.nginx.titles import command_of, is_worker, options_of


@pytest.mark.parametrize(
    ("title", "command"),
    [
        ("nginx: master process nginx -g daemon off;", "nginx -g daemon off;"),
        ("nginx: master process /usr/sbin/nginx", "/usr/sbin/nginx"),
        (
            "angie: master process v1.7.0 #6 [/usr/sbin/angie -c /etc/angie/angie.conf]",
            "/usr/sbin/angie -c /etc/angie/angie.conf",
        ),
        (
            "angie: master process v1.11.5 PRO #1 [/usr/sbin/angie -c /etc/angie/[a].conf]",
            "/usr/sbin/angie -c /etc/angie/[a].conf",
        ),
        ("angie: master process v1.12.0", ""),
        ("nginx: worker process", None),
        ("php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)", None),
        ("gunicorn: master [app:app]", None),
        ("vi nginx: master process", None),
        ("", None),
    ],
)
def test_masters(title: str, command: str | None) -> None:
    """A master's command line stands in its title; a reload does not change it."""
    assert command_of(title) == command
    if command and " #" in title:
        assert command_of(title.replace(" #", " #1")) == command


@pytest.mark.parametrize(
    ("title", "is_one"),
    [
        ("nginx: worker process", True),
        ("nginx: worker process is shutting down", True),
        ("angie: worker process #6", True),
        ("angie: worker process is shutting down #5", True),
        ("nginx: cache manager process", False),
        ("angie: cache loader process #2", False),
        ("nginx: master process nginx: worker process", False),
        ("grep nginx: worker process", False),
    ],
)
def test_workers(title: str, is_one: bool) -> None:
    """Whatever serves clients, and nothing else of the same program."""
    assert is_worker(title) is is_one


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("nginx", {}),
        ("/opt/my nginx/sbin/nginx -c /x y/z.conf -p /a b/", {"c": "/x y/z.conf", "p": "/a b/"}),
        ("nginx -g daemon off; env A; -c x", {"g": "daemon off; env A;", "c": "x"}),
        ("nginx -qtc x -px", {"c": "x", "p": "x"}),
        ("nginx -c x -c y", {"c": "y"}),
        ("nginx -c -p", {"c": "-p"}),
        ("nginx -c", {"c": ""}),
    ],
)  # fmt: skip
def test_options(command: str, options: dict[str, str]) -> None:
    """As Nginx reads them: glued together, several in one word, and the last one counts."""
    assert options_of(command) == options
