"""The servers of a cluster as the controller sees them: types, records, what may be loaded, how far service is from its
profile, and the order in which they go over to another plan."""
