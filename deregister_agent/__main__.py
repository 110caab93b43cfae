"""``python -m deregister_agent`` is the command line."""

from deregister_agent.cli.main import main

main()
