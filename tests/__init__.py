"""Tests, by how much of the world they need: unit, contract, integration, crash, e2e."""
