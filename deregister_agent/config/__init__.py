"""One TOML file, validated as a whole, with mistakes told in words."""
