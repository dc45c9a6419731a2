"""What of this host a command would stumble over, asked before it does."""
