"""The search for fleets too large to be written down: routes made as prices ask for them, and whole servers by branching."""
