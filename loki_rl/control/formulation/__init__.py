"""The allocation problem as mathematics: what is asked, latency models, accuracies, configurations, the flow network, and
the linear model written down."""
