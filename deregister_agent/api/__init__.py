"""The inside of the HTTP API: its server, who may ask, what is asked and how it is answered."""
