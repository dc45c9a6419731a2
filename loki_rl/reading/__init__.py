"""The application *reading*: its models and where they come from, the adapters around them, rendered scenes with known text,
and how well they are read."""
