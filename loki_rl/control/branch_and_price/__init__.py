"""The search for fleets of any size: routes made as prices ask for them, and whole servers by branching."""
