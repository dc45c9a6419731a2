"""What TensorBoard shows of a run: its curves, what their tags mean, and the event files that hold them."""
