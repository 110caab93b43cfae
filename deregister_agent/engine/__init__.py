"""One instance through its drains: act, look, decide, write down."""
