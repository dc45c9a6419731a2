"""One file a policy: from what a controller observes to the demand that the allocator is asked to plan for. named.py lists
them; a new policy is added there."""
