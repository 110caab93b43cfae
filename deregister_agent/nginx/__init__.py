"""
What this agent knows of Nginx itself.

``tokens`` and ``reading`` read the text as Nginx does; ``conf`` finds one server and
changes one word; ``processes`` and ``control`` watch workers, test and reload;
``relatives`` and ``seen`` find other workers and other files than those that are meant;
``generation`` asks over HTTP where processes cannot be seen; ``record`` keeps what has
been proved; ``change`` carries an edit of one ``site`` through; ``stragglers`` names old
workers; ``watching`` waits for news; ``advice`` warns, and ``remedies`` says what to do.
"""
