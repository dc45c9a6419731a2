"""The evaluation of the Loki paper (HPDC'24) made again: its studies, their charts, and the command that runs them all."""
