"""From recordings of a plane to a calibration of its twin: what batches took alone and beside others, what they had in
common, and what loads, messages, timers and plans took."""
