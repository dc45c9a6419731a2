"""`python -m loki_rl` is `loki-rl`."""

from loki_rl.cli.main import main

main()
