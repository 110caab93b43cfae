"""The demonstration: a rolling restart under load that loses nothing, on one machine."""
