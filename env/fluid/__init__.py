"""The fluid twin, in which agents are trained: queues, loads and swaps of many clusters at once, as compiled loops, and the
windows of demand that episodes are played on."""
