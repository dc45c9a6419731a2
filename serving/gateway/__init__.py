"""Between clients and the gateway's actor: both ends of a native connection, what may be sent, and the memory that outlives
a crash."""
