"""Who may ask: TLS, API keys, key pairs of native clients, and which addresses need them."""
