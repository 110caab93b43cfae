"""The whole stack in containers, and the programs that build it and try it."""
