"""The policy beside the controller's loop: chosen by name, asked in a thread, and its trouble in words."""
