"""
What this agent knows of Nginx itself.

``tokens`` reads the text as Nginx does, ``conf`` finds and changes one server
directive, ``control`` tests, reloads and watches workers, ``generation`` asks over
HTTP where processes cannot be seen, ``record`` keeps what has been proved, ``change``
carries one edit through, ``advice`` warns.
"""
